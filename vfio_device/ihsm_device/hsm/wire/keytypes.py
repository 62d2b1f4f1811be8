# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Types of stored keys: family, allowed usages, size in the vault (spec 05 §5.2, §5.6)."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from ihsm_abi.ddi import KeyAttributeFlags, KeyType, KeyUsage
from ihsm_device.hsm.keystore import BulkType, Hash


class Family(Enum):
    """What a key is good for."""

    RSA = "rsa"
    ECC = "ecc"
    AES = "aes"
    BULK = "bulk"
    SECRET = "secret"
    HMAC = "hmac"
    MASKING = "masking"


USAGES: Final = {
    Family.RSA: frozenset({KeyUsage.SignVerify, KeyUsage.EncryptDecrypt}),
    Family.ECC: frozenset({KeyUsage.SignVerify, KeyUsage.Derive}),
    Family.AES: frozenset({KeyUsage.EncryptDecrypt}),
    Family.BULK: frozenset({KeyUsage.EncryptDecrypt}),
    Family.SECRET: frozenset({KeyUsage.Derive}),
    Family.HMAC: frozenset({KeyUsage.SignVerify, KeyUsage.Derive}),
}
"""Usages that a client may give a key of the family."""

USAGE_FLAGS: Final = {
    KeyUsage.EncryptDecrypt: KeyAttributeFlags.ENCRYPT | KeyAttributeFlags.DECRYPT,
    KeyUsage.SignVerify: KeyAttributeFlags.SIGN | KeyAttributeFlags.VERIFY,
    KeyUsage.Unwrap: KeyAttributeFlags.UNWRAP,
    KeyUsage.Derive: KeyAttributeFlags.DERIVE,
}
"""Usage as it is stored with a key."""


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """Facts about one key type; sizes in bytes."""

    family: Family
    vault_bytes: int
    """What the vault accounts for the key's value; also `key_length` in its masked form."""
    secret_bytes: int = 0
    """Length of a symmetric key; 0 for asymmetric types and for variable-length ones."""
    modulus_bytes: int = 0
    crt: bool = False
    public_bytes: int = 0
    """Stored beside the private part of an EC key, not counted in `key_length`."""
    digest: Hash | None = None
    """Hash of an HMAC key."""
    lengths: range | None = None
    """Lengths that a variable-length key may have."""
    bulk: BulkType | None = None


def _symmetric(family: Family, size: int, digest: Hash | None = None) -> TypeInfo:
    return TypeInfo(family, size, secret_bytes=size, digest=digest)


def _ecc(private: int) -> TypeInfo:
    return TypeInfo(Family.ECC, private, public_bytes=2 * private)


def _rsa(vault_bytes: int, modulus_bytes: int, *, crt: bool) -> TypeInfo:
    return TypeInfo(Family.RSA, vault_bytes, modulus_bytes=modulus_bytes, crt=crt)


def _bulk(bulk: BulkType) -> TypeInfo:
    # The control vault holds a reference of 2 bytes, the fast-path vault the key.
    return TypeInfo(Family.BULK, 2, secret_bytes=32, bulk=bulk)


def _variable(digest: Hash, first: int, last: int) -> TypeInfo:
    return TypeInfo(Family.HMAC, 0, digest=digest, lengths=range(first, last + 1))


TYPES: Final = {
    KeyType.Rsa2kPrivate: _rsa(516, 256, crt=False),
    KeyType.Rsa3kPrivate: _rsa(772, 384, crt=False),
    KeyType.Rsa4kPrivate: _rsa(1028, 512, crt=False),
    KeyType.Rsa2kPrivateCrt: _rsa(1284, 256, crt=True),
    KeyType.Rsa3kPrivateCrt: _rsa(1924, 384, crt=True),
    KeyType.Rsa4kPrivateCrt: _rsa(2564, 512, crt=True),
    KeyType.Ecc256Private: _ecc(32),
    KeyType.Ecc384Private: _ecc(48),
    KeyType.Ecc521Private: _ecc(68),
    KeyType.Aes128: _symmetric(Family.AES, 16),
    KeyType.Aes192: _symmetric(Family.AES, 24),
    KeyType.Aes256: _symmetric(Family.AES, 32),
    KeyType.AesXtsBulk256: _bulk(BulkType.XTS),
    KeyType.AesGcmBulk256: _bulk(BulkType.GCM_APPROVED),
    KeyType.AesGcmBulk256Unapproved: _bulk(BulkType.GCM_UNAPPROVED),
    KeyType.Secret256: _symmetric(Family.SECRET, 32),
    KeyType.Secret384: _symmetric(Family.SECRET, 48),
    # Stored as 66 bytes and two of fill.
    KeyType.Secret521: TypeInfo(Family.SECRET, 68, secret_bytes=66),
    KeyType.HmacSha256: _symmetric(Family.HMAC, 32, Hash.SHA256),
    KeyType.HmacSha384: _symmetric(Family.HMAC, 48, Hash.SHA384),
    KeyType.HmacSha512: _symmetric(Family.HMAC, 64, Hash.SHA512),
    KeyType.VarHmac256: _variable(Hash.SHA256, 32, 64),
    KeyType.VarHmac384: _variable(Hash.SHA384, 48, 128),
    KeyType.VarHmac512: _variable(Hash.SHA512, 64, 128),
}
"""Every type that a client's key can have."""

AES_TYPE_OF_LENGTH: Final = {info.secret_bytes: type_ for type_, info in TYPES.items() if info.family is Family.AES}
"""Types of AES keys of the control path by the key's bytes."""

MASKING_TYPE: Final = KeyType.AesCbc256Hmac384
ENCRYPTION_KEY_BYTES: Final = 144
"""What K_est and K_sess take in the vault: private and public part."""
SESSION_BYTES: Final = 88
"""What a session object takes in the vault: revision and session masking key."""
