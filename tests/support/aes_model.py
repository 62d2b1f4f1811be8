# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What AES commands must produce, computed with another library and plain integers (spec 02 C.6, C.7, E.5)."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ihsm_abi.aes_queue import AES_BLOCK_BYTES, DATA_UNIT_BYTES, GCM_AAD_ALIGNMENT_BYTES

_GHASH_POLYNOMIAL = 0xE1 << 120


def padded_aad(aad: bytes) -> bytes:
    """AAD as a client lays it out at the start of the source (spec 02 C.6)."""
    remainder = len(aad) % GCM_AAD_ALIGNMENT_BYTES
    prefix = bytes(AES_BLOCK_BYTES) if 1 <= remainder <= AES_BLOCK_BYTES else b""
    return prefix + aad + bytes(-(len(prefix) + len(aad)) % GCM_AAD_ALIGNMENT_BYTES)


def gcm(key: bytes, iv: bytes, region: bytes, aad_len: int, text: bytes, *, decrypt: bool) -> tuple[bytes, bytes]:
    """Result and tag of text with `region` hashed literally and `aad_len` as the length in the tag (spec 02 E.5)."""
    plaintext = _counter_mode(key, iv, text) if decrypt else text
    sealed = AESGCM(key).encrypt(iv, plaintext, region)
    tag = int.from_bytes(sealed[-16:], "big")
    h = int.from_bytes(_encrypt_block(key, bytes(16)), "big")
    difference = (8 * len(region) ^ 8 * aad_len) << 64
    tag ^= _ghash_multiply(difference, h)
    return (plaintext if decrypt else sealed[:-16]), tag.to_bytes(16, "big")


def xts(key1: bytes, key2: bytes, tweak: bytes, dul: int, data: bytes, *, decrypt: bool) -> bytes:
    """Data units one after the other, each with the tweak of the one before plus one."""
    unit = DATA_UNIT_BYTES.get(dul, len(data))
    number = int.from_bytes(tweak, "little")
    result = b""
    for start in range(0, len(data), unit or 1):
        block = (number & (1 << 128) - 1).to_bytes(16, "little")
        cipher = Cipher(algorithms.AES(key1 + key2), modes.XTS(block))
        context = cipher.decryptor() if decrypt else cipher.encryptor()
        result += context.update(data[start : start + unit]) + context.finalize()
        number += 1
    return result


def _encrypt_block(key: bytes, block: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def _counter_mode(key: bytes, iv: bytes, text: bytes) -> bytes:
    """GCM's encryption without its tag: the counter of the first text block is 2."""
    return Cipher(algorithms.AES(key), modes.CTR(iv + (2).to_bytes(4, "big"))).encryptor().update(text)


def _ghash_multiply(x: int, y: int) -> int:
    """Product in GCM's field, whose bit 0 is the most significant bit (NIST SP 800-38D §6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        if x >> bit & 1:
            product ^= y
        y = y >> 1 ^ (_GHASH_POLYNOMIAL if y & 1 else 0)
    return product
