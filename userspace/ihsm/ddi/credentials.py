# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Credential encryption: id, PIN and session seed on their way to the device (spec 04 §5).

The device offers a P-384 key and a nonce. The client agrees on keys with an ephemeral P-384 key (ECDH, then
HKDF-SHA-384 with the nonce as info), encrypts with AES-256-CBC and authenticates with HMAC-SHA-384.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from ihsm.arguments import octets
from ihsm.ddi.errors import ResponseError
from ihsm_abi.ddi import (
    DerPublicKey,
    EncryptedEstablishCredential,
    EncryptedPin,
    EncryptedSessionCredential,
    KeyType,
)
from ihsm_abi.ddi.limits import (
    CREDENTIAL_ID_BYTES,
    CREDENTIAL_IV_BYTES,
    PIN_BYTES,
    SESSION_SEED_BYTES,
)

_AES_KEY_BYTES = 32
_MAC_KEY_BYTES = 48


@dataclass(frozen=True, slots=True)
class Credential:
    """Application id and PIN, 16 bytes each; all-zero values are refused by devices."""

    id: bytes
    pin: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Check the lengths."""
        for argument, field_name, size in (("credential id", "id", CREDENTIAL_ID_BYTES), ("PIN", "pin", PIN_BYTES)):
            given = getattr(self, field_name)
            object.__setattr__(self, field_name, octets("Credential", argument, given, size))


@dataclass(frozen=True, slots=True)
class Entropy:
    """Where the client's secrets come from; the default is the operating system."""

    ephemeral_key: Callable[[], ec.EllipticCurvePrivateKey] = lambda: ec.generate_private_key(ec.SECP384R1())
    random: Callable[[int], bytes] = os.urandom


@dataclass(frozen=True, slots=True)
class CredentialCipher:
    """Keys agreed with the device for one request."""

    aes_key: bytes = field(repr=False)
    mac_key: bytes = field(repr=False)
    nonce: bytes
    iv: bytes
    public_key: DerPublicKey
    """The client's ephemeral key, DER SubjectPublicKeyInfo."""

    @classmethod
    def agree(cls, device_key: DerPublicKey, nonce: bytes, entropy: Entropy) -> "CredentialCipher":
        """Agree on keys for the key and nonce of a Get...EncryptionKey response in host form.

        Raises:
            ResponseError: the device's key is no P-384 key.
        """
        try:
            peer = load_der_public_key(device_key.der)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ResponseError(f"encryption key of the device: {error}") from None
        if not isinstance(peer, ec.EllipticCurvePublicKey) or not isinstance(peer.curve, ec.SECP384R1):
            raise ResponseError(f"encryption key of the device is no P-384 key but {device_key.key_kind!r}")
        own = entropy.ephemeral_key()
        material = HKDF(hashes.SHA384(), _AES_KEY_BYTES + _MAC_KEY_BYTES, salt=None, info=nonce).derive(
            own.exchange(ec.ECDH(), peer)
        )
        spki = own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(
            aes_key=material[:_AES_KEY_BYTES],
            mac_key=material[_AES_KEY_BYTES:],
            nonce=nonce,
            iv=entropy.random(CREDENTIAL_IV_BYTES),
            public_key=DerPublicKey(der=spki, key_kind=KeyType.Ecc384Public),
        )

    def _encrypt(self, plain: bytes) -> tuple[bytes, bytes]:
        """Ciphertext and tag; all fields of a request are one CBC stream."""
        encryptor = Cipher(algorithms.AES256(self.aes_key), modes.CBC(self.iv)).encryptor()
        ciphertext = encryptor.update(plain) + encryptor.finalize()
        mac = hmac.HMAC(self.mac_key, hashes.SHA384())
        mac.update(ciphertext + self.iv + self.nonce)
        return ciphertext, mac.finalize()

    def establish_credential(self, credential: Credential) -> EncryptedEstablishCredential:
        """For EstablishCredential."""
        ciphertext, tag = self._encrypt(credential.id + credential.pin)
        return EncryptedEstablishCredential(
            encrypted_id=ciphertext[:CREDENTIAL_ID_BYTES],
            encrypted_pin=ciphertext[CREDENTIAL_ID_BYTES:],
            iv=self.iv,
            nonce=self.nonce,
            tag=tag,
        )

    def session_credential(self, credential: Credential, seed: bytes) -> EncryptedSessionCredential:
        """For OpenSession and ReopenSession; `seed` has 48 bytes."""
        octets("OpenSession", "session seed", seed, SESSION_SEED_BYTES)
        ciphertext, tag = self._encrypt(credential.id + credential.pin + seed)
        seed_at = CREDENTIAL_ID_BYTES + PIN_BYTES
        return EncryptedSessionCredential(
            encrypted_id=ciphertext[:CREDENTIAL_ID_BYTES],
            encrypted_pin=ciphertext[CREDENTIAL_ID_BYTES:seed_at],
            encrypted_seed=ciphertext[seed_at:],
            iv=self.iv,
            nonce=self.nonce,
            tag=tag,
        )

    def new_pin(self, pin: bytes) -> EncryptedPin:
        """For ChangePin."""
        octets("ChangePin", "PIN", pin, PIN_BYTES)
        ciphertext, tag = self._encrypt(pin)
        return EncryptedPin(encrypted_pin=ciphertext, iv=self.iv, nonce=self.nonce, tag=tag)
