# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""AES (FP) queue: entries, scatter-gather descriptors, status codes (spec 02 parts C and E)."""

from enum import IntEnum
from typing import Final

import numpy as np

from ihsm_abi.bits import Bits, Word

SGL_DESCRIPTOR: Final = np.dtype(
    {"names": ["addr", "len", "type"], "formats": ["<u8", "<u4", "u1"], "offsets": [0, 8, 15], "itemsize": 16}
)

_COMMON_NAMES = ["attr", "cmd_id", "session_id", "short_app_id", "src_len", "src", "dst_len", "dst", "frame_type"]
_COMMON_FORMATS = ["<u2", "<u2", "<u2", "u1", "<u4", SGL_DESCRIPTOR, "<u4", SGL_DESCRIPTOR, "u1"]
_COMMON_OFFSETS = [4, 6, 8, 10, 24, 28, 44, 48, 64]

AES_SQE: Final = np.dtype(
    {"names": _COMMON_NAMES, "formats": _COMMON_FORMATS, "offsets": _COMMON_OFFSETS, "itemsize": 128}
)
"""What the commands of both ciphers have in common; `cipher` of `attr` says which the rest is."""
GCM_SQE: Final = np.dtype(
    {
        "names": [
            *_COMMON_NAMES, "key_id", "actual_aad_len", "tag", "iv", "aligned_aad_len", "tail_src_len",
            "tail_dst_len", "tail_src_addr", "tail_dst_addr",
        ],
        "formats": [*_COMMON_FORMATS, "<u4", "<u4", ("u1", 16), ("u1", 12), "<u4", "u1", "u1", "<u8", "<u8"],
        "offsets": [*_COMMON_OFFSETS, 68, 72, 76, 92, 104, 108, 109, 112, 120],
        "itemsize": 128,
    }
)  # fmt: skip
"""AES-GCM command; source is padded AAD then text, the last 1-15 bytes of text travel in the tail buffers."""
XTS_SQE: Final = np.dtype(
    {
        "names": [*_COMMON_NAMES, "key_id1", "key_id2", "tweak"],
        "formats": [*_COMMON_FORMATS, "<u4", "<u4", ("u1", 16)],
        "offsets": [*_COMMON_OFFSETS, 68, 72, 76],
        "itemsize": 128,
    }
)
AES_CQE: Final = np.dtype(
    {
        "names": ["attr", "cmd_id", "tag", "iv", "tail_dst_len", "fips_approved", "len", "sqhd", "sqid", "err", "psf"],
        "formats": ["<u2", "<u2", ("u1", 16), ("u1", 12), "<u4", "<u4", "<u4", "<u2", "<u2", "<u2", "<u2"],
        "offsets": [0, 2, 4, 20, 44, 48, 52, 56, 58, 60, 62],
        "itemsize": 64,
    }
)


class AesAttr(Word):
    """Attribute word of an AES SQE, echoed in the CQE (spec 02 C.2)."""

    decrypt = Bits(0)
    psdt = Bits(2)
    cmd_type = Bits(3, 3)
    cipher = Bits(8)
    dul = Bits(14, 2)


CMD_TYPE_FAST_PATH: Final = 5
FRAME_TYPE_AES: Final = 1


class Cipher(IntEnum):
    """`cipher` of the attribute word."""

    GCM = 0
    XTS = 1


class SglType(IntEnum):
    """Descriptor type: high nibble of the descriptor's last byte (spec 02 C.4); the low nibble is always 0."""

    DATA_BLOCK = 0x0
    BIT_BUCKET = 0x1
    SEGMENT = 0x2
    LAST_SEGMENT = 0x3
    KEYED_DATA_BLOCK = 0x4
    VENDOR_SPECIFIC = 0xF


SGL_DESCRIPTORS_PER_SEGMENT: Final = 256
TAIL_MAX_BYTES: Final = 15
AES_BLOCK_BYTES: Final = 16
GCM_TAG_BYTES: Final = 16
GCM_IV_BYTES: Final = 12
GCM_AAD_ALIGNMENT_BYTES: Final = 32
XTS_MAX_BYTES: Final = 0x1000000
DATA_UNIT_BYTES: Final = {1: 512, 2: 4096, 3: 8192}
"""Bytes of a data unit by `dul` code; code 0 makes the whole source one unit."""


class AesStatus(IntEnum):
    """`sts` of an AES completion (spec 02 E.2)."""

    SUCCESS = 0
    INVALID_FIELD_XTS = 1
    INVALID_FIELD_GCM = 2
    CRYPTO_ENGINE_ERROR = 3
    FETCH_ERROR = 4
    DATA_TRANSFER_TIMEOUT = 5
    DELETE_QUEUE = 7
    ABORT_REQUESTED = 8
    RETRIES_EXCEEDED = 9
    QOS_LATENCY = 10


class XtsError(IntEnum):
    """`err` with INVALID_FIELD_XTS (spec 02 E.3)."""

    KEY1_INDEX = 0x1
    KEY2_INDEX = 0x2
    KEY_NOT_OWNED = 0x3
    SESSION_ONLY_DIFFERS = 0x4
    SAME_INDEX = 0x5
    SAME_KEY = 0x6
    KEY1_SESSION = 0x7
    KEY2_SESSION = 0x8
    KEY1_APP = 0x9
    KEY2_APP = 0xA
    TOO_LONG = 0xB
    LENGTH_ALIGNMENT = 0xC
    KEY1_TYPE = 0xE
    KEY2_TYPE = 0xF


class GcmError(IntEnum):
    """`err` with INVALID_FIELD_GCM (spec 02 E.3, E.4)."""

    KEY_INDEX = 0x1
    KEY_NOT_OWNED = 0x2
    KEY_SESSION = 0x3
    KEY_APP = 0x4
    AAD_ALIGNMENT = 0x5
    LENGTH_ALIGNMENT = 0x6
    KEY_TYPE = 0x8
    TAIL_SRC_ADDRESS = 0x22
    TAIL_DST_ADDRESS = 0x23
    DMA_IN = 0x26
    DMA_OUT = 0x27
    CORRECTION_FAILED = 0x29
    TAG_MISMATCH = 0x2A
    TAIL_LENGTH = 0x2C


class EngineError(IntEnum):
    """`err` with CRYPTO_ENGINE_ERROR (spec 02 E.2)."""

    TAG_MISMATCH = 0x9


class FetchError(IntEnum):
    """`err` with FETCH_ERROR (spec 02 E.2)."""

    DEST_PRP = 0x1
    DEST_SGL = 0x2
    SRC_PRP = 0x3
    SRC_SGL = 0x4
    DEST_DESCRIPTOR = 0x5
    SRC_DESCRIPTOR = 0x6
    LENGTH_UNDERRUN = 0xA
    LENGTH_OVERRUN = 0xB
