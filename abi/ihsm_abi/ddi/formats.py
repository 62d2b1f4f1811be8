# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Lengths of the raw little-endian forms that a physical device sends and receives (spec 03 §6)."""

from dataclasses import dataclass
from typing import Final

from ihsm_abi.ddi.enums import AesKeySize, EccCurve, KeyType


@dataclass(frozen=True, slots=True)
class EccFormat:
    """How points and signatures of one curve look; lengths in bytes."""

    curve: EccCurve
    public_type: KeyType
    private_type: KeyType
    coordinate_bytes: int
    """Length of a coordinate, and of r and s, in big-endian forms."""
    padded_bytes: int
    """Length of the same in raw form: little-endian, zero-filled at its end."""
    spki_prefix: bytes
    """DER SubjectPublicKeyInfo before the 04 of the uncompressed point."""

    @property
    def raw_bytes(self) -> int:
        """Length of a raw public key (x then y) and of a raw signature (r then s)."""
        return 2 * self.padded_bytes

    @property
    def spki_bytes(self) -> int:
        """Length of the DER SubjectPublicKeyInfo."""
        return len(self.spki_prefix) + 1 + 2 * self.coordinate_bytes


_P256_PREFIX = "3059301306072A8648CE3D020106082A8648CE3D030107034200"
_P384_PREFIX = "3076301006072A8648CE3D020106052B81040022036200"
_P521_PREFIX = "30819B301006072A8648CE3D020106052B8104002303818600"
ECC_FORMATS: Final = (
    EccFormat(EccCurve.P256, KeyType.Ecc256Public, KeyType.Ecc256Private, 32, 32, bytes.fromhex(_P256_PREFIX)),
    EccFormat(EccCurve.P384, KeyType.Ecc384Public, KeyType.Ecc384Private, 48, 48, bytes.fromhex(_P384_PREFIX)),
    EccFormat(EccCurve.P521, KeyType.Ecc521Public, KeyType.Ecc521Private, 66, 68, bytes.fromhex(_P521_PREFIX)),
)
ECC_BY_CURVE: Final = {entry.curve: entry for entry in ECC_FORMATS}
ECC_BY_PUBLIC_TYPE: Final = {entry.public_type: entry for entry in ECC_FORMATS}

RSA_MODULUS_BYTES: Final = {KeyType.Rsa2kPublic: 256, KeyType.Rsa3kPublic: 384, KeyType.Rsa4kPublic: 512}
"""Length of n by public key type."""
RAW_RSA_EXPONENT_BYTES: Final = 4
"""Length of e, which follows n in the raw form."""

RAW_DIGEST_BYTES: Final = 68
"""Length of an EccSign digest on a physical device, whatever the curve."""
WRAPPED_KEK_BYTES: Final = 256
"""Leading part of an RsaUnwrap blob that is RSA ciphertext, and little-endian on a physical device."""

AES_KEY_TYPES: Final = {
    AesKeySize.Aes128: KeyType.Aes128,
    AesKeySize.Aes192: KeyType.Aes192,
    AesKeySize.Aes256: KeyType.Aes256,
    AesKeySize.AesXtsBulk256: KeyType.AesXtsBulk256,
    AesKeySize.AesGcmBulk256: KeyType.AesGcmBulk256,
    AesKeySize.AesGcmBulk256Unapproved: KeyType.AesGcmBulk256Unapproved,
}
"""Type of the key that AesGenerateKey makes (spec 03 §9)."""
