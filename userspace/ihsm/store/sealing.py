# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What only the user's PIN opens: the owner's key and the device's credential, under scrypt and AES-256-GCM.

The key of AES-GCM and a check of the PIN come of one scrypt, half of its output each: the check tells as much of the
PIN as a tag would, no more. With it a wrong PIN is told from a changed file. The associated data are all that names the
store and the device that it trusts.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ihsm import fields
from ihsm.arguments import octets
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm_abi import json_text
from ihsm_abi.ddi.limits import CREDENTIAL_ID_BYTES, PIN_BYTES

LONGEST_PIN: Final = 1024
"""Bytes of a PIN in UTF-8."""
_LONGEST_OWNER_KEY: Final = 4096
_KEY_BYTES: Final = 32
_CHECK_BYTES: Final = 32
_SALT_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_LONGEST_CIPHERTEXT: Final = 1 << 16
_MOST_MEMORY: Final = 1 << 30
"""Bytes that scrypt may take, 128 n r; what a file asks for beyond is damage, or an attack on the machine."""
_MOST_WORK: Final = 1 << 25
"""Bound of n r p, which is time: 32 times the default."""
_REFUSED_IN_A_PIN: Final = frozenset({"Cc", "Cs", "Cn", "Zl", "Zp"})


class SealBrokenError(ValueError):
    """A sealed part does not fit the PIN's key or what surrounds it."""


@dataclass(frozen=True, slots=True)
class OwnerSecrets:
    """What provisions the device again after a restart: the owner's key, and the credential that is set each time."""

    owner_key: bytes = field(repr=False)
    """PKCS#8 DER of the P-384 key that endorses the partition (POTA, spec 04 §5)."""
    credential_id: bytes = field(repr=False)
    """The device credential's id, 16 bytes."""
    credential_pin: bytes = field(repr=False)
    """The device credential's PIN, 16 random bytes: not the user's PIN."""

    def __post_init__(self) -> None:
        """Check the lengths; raises ArgumentError or ArgumentTypeError."""
        for name, size in (("owner_key", None), ("credential_id", CREDENTIAL_ID_BYTES), ("credential_pin", PIN_BYTES)):
            object.__setattr__(self, name, octets("OwnerSecrets", name, getattr(self, name), size))
        if not 1 <= len(self.owner_key) <= _LONGEST_OWNER_KEY:
            raise ArgumentError("OwnerSecrets", "owner_key", f"{len(self.owner_key)} bytes, 1 to {_LONGEST_OWNER_KEY}")

    def _plain(self) -> dict[str, str]:
        return {name: fields.encode(getattr(self, name)) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Scrypt:
    """Parameters of scrypt (RFC 7914 §2); a new salt each time a PIN is set."""

    n: int = 1 << 17
    r: int = 8
    p: int = 1
    salt: bytes = field(default_factory=lambda: os.urandom(_SALT_BYTES))

    @classmethod
    def parse(cls, value: Any) -> Scrypt:
        """Of a file; raises ValueError for what would take more than 1 GiB or half a minute."""
        record = fields.table(value)
        fields.only(record, ("name", "n", "r", "p", "salt"))
        fields.field(record, "name", fields.one_of("scrypt"))
        kdf = cls(
            n=fields.field(record, "n", _power_of_two),
            r=fields.field(record, "r", fields.number(1, 1 << 10)),
            p=fields.field(record, "p", fields.number(1, 1 << 10)),
            salt=fields.field(record, "salt", fields.octets(16, 64)),
        )
        if 128 * kdf.n * kdf.r > _MOST_MEMORY or kdf.n * kdf.r * kdf.p > _MOST_WORK:
            raise ValueError(f"n, r and p must need at most {_MOST_MEMORY} bytes and {_MOST_WORK} rounds")
        return kdf

    def record(self) -> dict[str, Any]:
        """For a file."""
        return {"name": "scrypt", "n": self.n, "r": self.r, "p": self.p, "salt": fields.encode(self.salt)}

    def derive(self, pin: str) -> PinKey:
        """The key of a PIN, as `prepare_pin` gives it; takes tenths of a second, and memory as the parameters say.

        Raises:
            ValueError, MemoryError: the machine cannot.
        """
        material = hashlib.scrypt(
            pin.encode(),
            salt=self.salt,
            n=self.n,
            r=self.r,
            p=self.p,
            # Some more than the algorithm's own 128 (n r + r p) bytes.
            maxmem=128 * self.r * (self.n + self.p + 2) + (1 << 20),
            dklen=_KEY_BYTES + _CHECK_BYTES,
        )
        return PinKey(self, material[:_KEY_BYTES], hashlib.sha256(material[_KEY_BYTES:]).digest())


@dataclass(frozen=True, slots=True)
class PinKey:
    """What a PIN gives: the key of the sealed part, and the check by which a wrong PIN is known."""

    kdf: Scrypt
    key: bytes = field(repr=False)
    check: bytes = field(repr=False)

    def seal(self, secrets: OwnerSecrets, associated: bytes) -> SealedSecrets:
        """Encrypt under this key."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        plain = json_text.dump(secrets._plain()).encode()
        return SealedSecrets(self.kdf, self.check, nonce, AESGCM(self.key).encrypt(nonce, plain, associated))


@dataclass(frozen=True, slots=True)
class SealedSecrets:
    """The owner's secrets as a PIN protects them."""

    kdf: Scrypt
    check: bytes = field(repr=False)
    nonce: bytes = field(repr=False)
    ciphertext: bytes = field(repr=False)

    def fits(self, key: PinKey) -> bool:
        """Whether a key is that of this part's PIN."""
        return self.kdf == key.kdf and hmac.compare_digest(self.check, key.check)

    def open(self, key: PinKey, associated: bytes) -> OwnerSecrets:
        """The secrets; raises SealBrokenError if anything of it, or of the associated data, was changed."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        try:
            return _secrets(json_text.parse(AESGCM(key.key).decrypt(self.nonce, self.ciphertext, associated)))
        except (InvalidTag, ValueError):
            pass
        # Raised here, so that what was being read does not hang on the error as its context.
        raise SealBrokenError("sealed under this PIN, but not with this content")

    def record(self) -> dict[str, Any]:
        """For a file."""
        return {
            "kdf": self.kdf.record(),
            "check": fields.encode(self.check),
            "nonce": fields.encode(self.nonce),
            "ciphertext": fields.encode(self.ciphertext),
        }


def parse_owner(value: Any) -> OwnerSecrets | SealedSecrets:
    """The owner's part of a file: in the clear, or sealed; raises ValueError."""
    record = fields.table(value)
    if record.get("kdf", 0) is None:
        fields.only(record, ("kdf", "plain"))
        return fields.field(record, "plain", _secrets)
    fields.only(record, ("kdf", "check", "nonce", "ciphertext"))
    return SealedSecrets(
        fields.field(record, "kdf", Scrypt.parse),
        fields.field(record, "check", fields.octets(_CHECK_BYTES, _CHECK_BYTES)),
        fields.field(record, "nonce", fields.octets(_NONCE_BYTES, _NONCE_BYTES)),
        fields.field(record, "ciphertext", fields.octets(_TAG_BYTES, _LONGEST_CIPHERTEXT)),
    )


def owner_record(owner: OwnerSecrets | SealedSecrets) -> dict[str, Any]:
    """For a file; as `parse_owner` reads it."""
    return owner.record() if isinstance(owner, SealedSecrets) else {"kdf": None, "plain": owner._plain()}


def prepare_pin(pin: str) -> str:
    """A PIN as it is compared, whatever keyboard and system it was typed on (RFC 8265 §4.2, OpaqueString).

    All kinds of spaces are the ASCII one, then Unicode's normalisation form C; case and leading spaces stay.

    Raises:
        ArgumentTypeError: no text.
        ArgumentError: empty, longer than 1024 bytes of UTF-8, or with control or unassigned characters.
    """
    if not isinstance(pin, str):
        raise ArgumentTypeError("PIN", "pin", f"{type(pin).__name__}, must be str")
    if len(pin) > LONGEST_PIN:
        raise ArgumentError("PIN", "pin", f"longer than {LONGEST_PIN} bytes of UTF-8")
    for character in pin:
        if unicodedata.category(character) in _REFUSED_IN_A_PIN:
            raise ArgumentError("PIN", "pin", "has a control character, a line break or an unassigned character")
    spaced = "".join(" " if unicodedata.category(character) == "Zs" else character for character in pin)
    prepared = unicodedata.normalize("NFC", spaced)
    if not prepared:
        raise ArgumentError("PIN", "pin", "empty")
    if len(prepared.encode()) > LONGEST_PIN:
        raise ArgumentError("PIN", "pin", f"longer than {LONGEST_PIN} bytes of UTF-8")
    return prepared


def _power_of_two(value: Any) -> int:
    number = fields.number(2, _MOST_MEMORY // 128)(value)
    if number & (number - 1):
        raise ValueError("must be a power of two")
    return number


def _secrets(value: Any) -> OwnerSecrets:
    record: Mapping[str, Any] = fields.table(value)
    fields.only(record, OwnerSecrets.__slots__)
    return OwnerSecrets(
        fields.field(record, "owner_key", fields.octets(1, _LONGEST_OWNER_KEY)),
        fields.field(record, "credential_id", fields.octets(CREDENTIAL_ID_BYTES, CREDENTIAL_ID_BYTES)),
        fields.field(record, "credential_pin", fields.octets(PIN_BYTES, PIN_BYTES)),
    )
