# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""RSA encodings (RFC 8017), which are the host's business: the device computes y^d mod n (spec 05 §12.2).

Only what a private key needs: signatures are encoded, ciphertexts decoded.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from typing import Final

from cryptography.hazmat.primitives import hashes

from ihsm.api.digests import digest
from ihsm.api.errors import UnsupportedByDeviceError
from ihsm.errors import ArgumentError

_DIGEST_INFO: Final = {
    "sha1": "3021300906052b0e03021a05000414",
    "sha224": "302d300d06096086480165030402040500041c",
    "sha256": "3031300d060960864801650304020105000420",
    "sha384": "3041300d060960864801650304020205000430",
    "sha512": "3051300d060960864801650304020305000440",
    "sha512-224": "302d300d06096086480165030402050500041c",
    "sha512-256": "3031300d060960864801650304020605000420",
    "sha3-224": "302d300d06096086480165030402070500041c",
    "sha3-256": "3031300d060960864801650304020805000420",
    "sha3-384": "3041300d060960864801650304020905000430",
    "sha3-512": "3051300d060960864801650304020a05000440",
}
"""DER of DigestInfo up to the digest itself (RFC 8017 §9.2 note 1; the SHA-3 identifiers from NIST's registry)."""
_PKCS1_OVERHEAD: Final = 11


def emsa_pkcs1(operation: str, message_digest: bytes, algorithm: hashes.HashAlgorithm | None, size: int) -> bytes:
    """EMSA-PKCS1-v1_5 (RFC 8017 §9.2), `size` bytes; algorithm None: the bytes as they are, without DigestInfo.

    Raises:
        UnsupportedByDeviceError: a hash without an identifier here.
        ArgumentError: too many bytes for the key.
    """
    if algorithm is None:
        info = message_digest
    elif algorithm.name in _DIGEST_INFO:
        info = bytes.fromhex(_DIGEST_INFO[algorithm.name]) + message_digest
    else:
        raise UnsupportedByDeviceError(operation, f"{algorithm.name} has no identifier for PKCS#1 v1.5 signatures here")
    if len(info) > size - _PKCS1_OVERHEAD:
        raise ArgumentError(operation, "data", f"{len(info)} bytes to sign, the key takes {size - _PKCS1_OVERHEAD}")
    return b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info


def emsa_pss(
    operation: str,
    message_digest: bytes,
    algorithm: hashes.HashAlgorithm,
    mask_algorithm: hashes.HashAlgorithm,
    salt_bytes: int | None,
    bits: int,
) -> bytes:
    """EMSA-PSS (RFC 8017 §9.1.1) for a modulus of `bits` bits, as long as it; salt_bytes None: as many as fit.

    Raises:
        ArgumentError: digest and salt are too long for the key.
    """
    size = (bits - 1 + 7) // 8
    room = size - len(message_digest) - 2
    wanted = room if salt_bytes is None else salt_bytes
    if room < 0:
        raise ArgumentError(operation, "algorithm", f"a digest of {len(message_digest)} bytes, too long for the key")
    if not 0 <= wanted <= room:
        raise ArgumentError(operation, "padding", f"a salt of {wanted} bytes, the key takes 0 to {room}")
    salt = os.urandom(wanted)
    hashed = digest(bytes(8) + message_digest + salt, algorithm)
    block = bytes(room - wanted) + b"\x01" + salt
    masked = bytearray(_xor(block, _mgf1(hashed, len(block), mask_algorithm)))
    masked[0] &= 0xFF >> (8 * size - (bits - 1))
    return bytes(masked) + hashed + b"\xbc"


def eme_oaep(
    encoded: bytes, algorithm: hashes.HashAlgorithm, mask_algorithm: hashes.HashAlgorithm, label: bytes
) -> bytes | None:
    """Message in an EME-OAEP encoding (RFC 8017 §7.1.2 step 3), None if it is none.

    One verdict over everything, without a branch on the way: which check failed tells an attacker the plaintext
    (Manger). Python's own timing is beyond reach here.
    """
    hash_bytes = algorithm.digest_size
    if len(encoded) < 2 * hash_bytes + 2:
        return None
    masked_seed, masked_block = encoded[1 : 1 + hash_bytes], encoded[1 + hash_bytes :]
    seed = _xor(masked_seed, _mgf1(masked_block, hash_bytes, mask_algorithm))
    block = _xor(masked_block, _mgf1(seed, len(masked_block), mask_algorithm))
    bad = encoded[0] | (not hmac.compare_digest(block[:hash_bytes], digest(label, algorithm)))
    index, looking = 0, 1
    for position in range(hash_bytes, len(block)):
        byte = block[position]
        is_one, is_zero = byte == 1, byte == 0
        index += position * (looking & is_one)
        bad |= looking & (not is_one) & (not is_zero)
        looking &= not is_one
    bad |= looking
    return None if bad else block[index + 1 :]


def eme_pkcs1(encoded: bytes, substitute: bytes) -> bytes:
    """Message in an EME-PKCS1-v1_5 encoding (RFC 8017 §7.2.2); of anything else bytes that look like a message.

    Whoever can tell the two apart can decrypt and sign with the key (Bleichenbacher). So what is no encoding decrypts
    to a message of a length drawn from `substitute`, a secret of key and ciphertext: always the same for the same
    ciphertext, and nothing that anyone else can compute.
    """
    good = (encoded[0] == 0) & (encoded[1] == 2)
    index, looking = 0, 1
    for position in range(2, len(encoded)):
        is_zero = encoded[position] == 0
        index += position * (looking & is_zero)
        looking &= not is_zero
    good &= (not looking) & (index >= 2 + 8)
    stream = hashlib.shake_256(substitute).digest(2 + len(encoded))
    length = int.from_bytes(stream[:2], "big") % (len(encoded) - _PKCS1_OVERHEAD + 1)
    choices = (stream[2 : 2 + length], encoded[index + 1 :])
    return choices[good]


def require_known(operation: str, *algorithms: hashes.HashAlgorithm) -> None:
    """Only SHA-1, SHA-2 and SHA-3 make encodings, as in other libraries: none could verify or encrypt with others.

    Raises:
        UnsupportedByDeviceError: another hash.
    """
    for algorithm in algorithms:
        if algorithm.name not in _DIGEST_INFO:
            raise UnsupportedByDeviceError(operation, f"RSA with {algorithm.name}; SHA-1, SHA-2 and SHA-3 are possible")


def _mgf1(seed: bytes, size: int, algorithm: hashes.HashAlgorithm) -> bytes:
    """MGF1 (RFC 8017 appendix B.2.1)."""
    count = -(-size // algorithm.digest_size)
    return b"".join(digest(seed + number.to_bytes(4, "big"), algorithm) for number in range(count))[:size]


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(len(left), "big")
