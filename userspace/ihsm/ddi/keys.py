# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Key handles of a session, what a new key shall be, and what a masked key tells in clear."""

from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from ihsm.arguments import checked_fields, octets
from ihsm.ddi.errors import ResponseError
from ihsm.errors import ArgumentError
from ihsm_abi.ddi import (
    DerPublicKey,
    KeyAttributeFlags,
    KeyType,
    KeyUsage,
    TargetKeyFlags,
    TargetKeyMetadata,
    TargetKeyProperties,
)
from ihsm_abi.ddi.flags import USAGE_FLAGS
from ihsm_abi.ddi.masked_key import MaskedKey, MaskedKeyError, MaskedKeyMetadata
from ihsm_abi.mbor import MborDecodeError, decode

PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """What a key to create is for."""

    usage: KeyUsage
    session: bool = False
    """The key lives and dies with the session."""
    tag: int | None = None
    """Name, 1 to 65535, by which later sessions can open the key; not with `session`."""
    label: bytes = b""
    """Up to 128 bytes, kept in the masked key."""

    def __post_init__(self) -> None:
        """Check the types."""
        checked_fields(self)

    @property
    def properties(self) -> TargetKeyProperties:
        """The wire form; the tag is a field of its own in requests."""
        flags = USAGE_FLAGS[self.usage]
        if self.session:
            flags |= TargetKeyFlags.SESSION
        return TargetKeyProperties(key_metadata=TargetKeyMetadata.of(flags), key_label=self.label)


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """The clear part of a masked key, not authenticated: only the device can do that."""

    key_type: KeyType
    flags: KeyAttributeFlags
    label: bytes
    tag: int | None
    length: int
    """Length in bytes of the key as the device stores it."""
    svn: int | None

    @classmethod
    def of(cls, masked_key: bytes) -> "KeyInfo":
        """Read a masked key; ResponseError if it is none."""
        data = octets("KeyInfo.of", "masked_key", masked_key)
        try:
            metadata, _ = decode(MaskedKeyMetadata, MaskedKey.parse(data).metadata)
        except (MaskedKeyError, MborDecodeError) as error:
            raise ResponseError(f"masked key: {error}") from None
        return cls(
            key_type=metadata.key_type,
            flags=metadata.key_attributes.flags,
            label=metadata.key_label,
            tag=metadata.key_tag,
            length=metadata.key_length,
            svn=metadata.svn,
        )


@dataclass(frozen=True, slots=True)
class Key:
    """A key in the device, as one session knows it."""

    key_id: int
    key_type: KeyType
    public_key_der: bytes | None = None
    """DER SubjectPublicKeyInfo of an EC or RSA key."""
    bulk_key_id: int | None = None
    """Number for the AES queues, bulk keys only."""
    masked_key: bytes = field(default=b"", repr=False)
    """Encrypted form for `Session.unmask`; empty when the operation returns none."""

    @property
    def public_key(self) -> PublicKey:
        """The public half.

        Raises:
            ArgumentError: a symmetric key has none.
            ResponseError: what the device gave is no EC or RSA key.
        """
        if self.public_key_der is None:
            raise ArgumentError("Key.public_key", "key", f"a {self.key_type.name} key has no public half")
        try:
            key = load_der_public_key(self.public_key_der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ResponseError(f"public key of key {self.key_id}: {error}") from None
        if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
            raise ResponseError(f"public key of key {self.key_id} is neither EC nor RSA")
        return key


def der_of(key: DerPublicKey | None) -> bytes | None:
    """The DER of an optional public key."""
    return None if key is None else key.der
