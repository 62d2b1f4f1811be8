# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""RSA-AES key wrap for import: RSA-OAEP of an AES key, then AES key wrap with padding (spec 05 §12.4, RFC 5649)."""

import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding

from ihsm.arguments import checked
from ihsm.ddi.keys import PublicKey
from ihsm.errors import ArgumentError
from ihsm_abi.ddi import HashAlgorithm
from ihsm_abi.ddi.formats import WRAPPED_KEK_BYTES

HASHES: dict[HashAlgorithm, type[hashes.HashAlgorithm]] = {
    HashAlgorithm.Sha1: hashes.SHA1,
    HashAlgorithm.Sha256: hashes.SHA256,
    HashAlgorithm.Sha384: hashes.SHA384,
    HashAlgorithm.Sha512: hashes.SHA512,
}
_KEK_BYTES = 32
_KEK_SIZES = (16, 24, 32)


@checked
def wrap_key(
    payload: bytes, unwrapping_key: PublicKey, hash_algorithm: HashAlgorithm, *, kek: bytes | None = None
) -> bytes:
    """Wrap key material for RsaUnwrap.

    Args:
        payload: PKCS#8 DER of a private key, or the bytes of an AES key.
        unwrapping_key: RSA-2048 public key of the partition.
        hash_algorithm: Hash of OAEP and of its mask generation.
        kek: AES key of 16, 24 or 32 bytes between the two; random, 32 bytes, by default.

    Raises:
        ArgumentError: the unwrapping key is no RSA-2048 key, or the AES key has another length.
    """
    if not isinstance(unwrapping_key, rsa.RSAPublicKey) or unwrapping_key.key_size != WRAPPED_KEK_BYTES * 8:
        raise ArgumentError("wrap_key", "unwrapping_key", "must be an RSA-2048 key")
    if kek is not None and len(kek) not in _KEK_SIZES:
        raise ArgumentError("wrap_key", "kek", f"{len(kek)} bytes, one of {_KEK_SIZES} needed")
    if not payload:
        raise ArgumentError("wrap_key", "payload", "empty")
    algorithm = HASHES[hash_algorithm]()
    oaep = padding.OAEP(mgf=padding.MGF1(algorithm), algorithm=algorithm, label=None)
    key_encryption_key = os.urandom(_KEK_BYTES) if kek is None else kek
    return unwrapping_key.encrypt(key_encryption_key, oaep) + aes_key_wrap_with_padding(key_encryption_key, payload)
