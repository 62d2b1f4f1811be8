# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Encrypted files: the STREAM construction over AES-256-GCM, and how a file is laid out.

STREAM is that of Hoang, Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance" (CRYPTO 2015): the text is cut into chunks, each sealed under a nonce of a random prefix, the chunk's
number and whether it is the last. So what is cut off, moved, appended or taken from another file does not verify.

A file is a header of 32 bytes, and chunks. Numbers are big-endian.

    0   6   magic, 89 69 68 73 6d 0a
    6   1   format: 1
    7   1   binary logarithm of the bytes of text in a chunk: 16
    8   8   prefix, random for each file
    16  16  fingerprint of the key

A chunk is 65,536 bytes of ciphertext, in the last one 0 to 65,536, and behind it the tag of 16 bytes. Only an empty
text has an empty chunk. Nonce (12 bytes): prefix, then as a 32-bit number twice the chunk's number, which is 0 for the
first, and 1 more for the last chunk. Associated data of every chunk: the header.

The fingerprint is the tag of AES-256-GCM over no text and 32 zero bytes of associated data, under the nonce of 12 bytes
ff. It tells which key a file needs; what proves it is the tags. No chunk has that nonce, for no file has the prefix of
8 bytes ff.

Limits. Prefixes are random: among 2^16 files under a key two have the same one with a chance of 2^-33, among 2^20 of
2^-25 (NIST SP 800-38D §8.3 wants at most 2^-32), so rotate the key before. A file has at most 2^31 chunks, 128 TiB.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ihsm.errors import IhsmError
from ihsm_abi.aes_queue import GCM_IV_BYTES, GCM_TAG_BYTES

MAGIC: Final = b"\x89ihsm\n"
FORMAT: Final = 1
CHUNK_BITS: Final = 16
CHUNK_BYTES: Final = 1 << CHUNK_BITS
TAG_BYTES: Final = GCM_TAG_BYTES
RECORD_BYTES: Final = CHUNK_BYTES + TAG_BYTES
"""A chunk in the file, all but the last."""
HEADER_BYTES: Final = 32
PREFIX_BYTES: Final = 8
FINGERPRINT_BYTES: Final = 16
MAX_CHUNKS: Final = 1 << 31
FINGERPRINT_NONCE: Final = b"\xff" * GCM_IV_BYTES
FINGERPRINT_AAD: Final = bytes(32)


class FileFormatError(IhsmError, ValueError):
    """Not a file that `encrypt_stream` has written."""

    exit_code = 6


@dataclass(frozen=True, slots=True)
class Header:
    """What stands before the chunks."""

    prefix: bytes
    fingerprint: bytes

    @classmethod
    def new(cls, fingerprint: bytes) -> Header:
        """Of a new file, with a prefix of its own."""
        prefix = os.urandom(PREFIX_BYTES)
        while prefix == FINGERPRINT_NONCE[:PREFIX_BYTES]:
            prefix = os.urandom(PREFIX_BYTES)
        return cls(prefix, fingerprint)

    def encode(self) -> bytes:
        """As the file begins, and as every chunk is bound to it."""
        return MAGIC + bytes((FORMAT, CHUNK_BITS)) + self.prefix + self.fingerprint

    @classmethod
    def parse(cls, data: bytes) -> Header:
        """The header of a file, from its first 32 bytes.

        Raises:
            FileFormatError: it has none, or one of a format that this version does not know.
        """
        if len(data) != HEADER_BYTES or not data.startswith(MAGIC):
            raise FileFormatError("decrypt: the input was not made by `ihsm encrypt`: it has not its header")
        if data[6] != FORMAT or data[7] != CHUNK_BITS:
            raise FileFormatError(
                f"decrypt: the input has format {data[6]} with chunks of 2^{data[7]} bytes; this version of ihsm knows "
                f"{FORMAT} with 2^{CHUNK_BITS}"
            )
        header = cls(data[8:16], data[16:])
        if header.prefix == FINGERPRINT_NONCE[:PREFIX_BYTES]:
            raise FileFormatError("decrypt: the input was not made by `ihsm encrypt`: no file has its prefix")
        return header

    def nonces(self, first: int, count: int, *, last: bool) -> NDArray[np.uint8]:
        """Nonces of `count` chunks from number `first` on, shape (count, 12); `last`: they end the file."""
        rows = np.empty((count, GCM_IV_BYTES), np.uint8)
        rows[:, :PREFIX_BYTES] = np.frombuffer(self.prefix, np.uint8)
        numbers = np.arange(first, first + count, dtype=np.uint64) << np.uint64(1)
        if last:
            numbers[-1] |= np.uint64(1)
        rows[:, PREFIX_BYTES:] = numbers.astype(">u4").view(np.uint8).reshape(-1, 4)
        return rows
