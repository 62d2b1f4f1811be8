# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""HSM (CP) queue: entries, session control, status codes (spec 02 part B)."""

from enum import IntEnum
from typing import Final

import numpy as np

from ihsm_abi.bits import Bits, Word

HSM_SQE: Final = np.dtype(
    {
        "names": [
            "command", "cid", "src_len", "src_prp1", "src_prp2", "dst_len", "dst_prp1", "dst_prp2", "control",
            "session_id",
        ],
        "formats": ["<u2", "<u2", "<u4", "<u8", "<u8", "<u4", "<u8", "<u8", "u1", "<u2"],
        "offsets": [0, 2, 4, 8, 16, 24, 28, 36, 44, 48],
        "itemsize": 64,
    }
)  # fmt: skip
HSM_CQE: Final = np.dtype(
    {
        "names": ["byte_count", "control", "session_id", "short_app_id", "sqhd", "sqid", "cid", "psf"],
        "formats": ["<u2", "u1", "<u2", "u1", "<u2", "<u2", "<u2", "<u2"],
        "offsets": [0, 2, 4, 6, 8, 10, 12, 14],
        "itemsize": 16,
    }
)


class HsmCommandWord(Word):
    """Low half of SQE dword 0."""

    opc = Bits(0, 10)
    set = Bits(10, 4)
    psdt = Bits(14, 2)


class HsmOpcode(IntEnum):
    """What an HSM queue entry asks for."""

    NORMAL = 0
    FLUSH_SESSION = 1


class ControlKind(IntEnum):
    """Session control kind of a command (spec 02 B.2)."""

    NONE = 0
    OPEN = 1
    CLOSE = 2
    IN_SESSION = 3


class SessionControl(Word):
    """Session control flags, SQE byte 44 and CQE byte 2 (spec 02 B.2)."""

    kind = Bits(0, 2)
    id_valid = Bits(2)
    short_app_id_valid = Bits(3)
    session_closed = Bits(4)


class HsmStatus(IntEnum):
    """Completion `sc` of an HSM command that has no DDI response (spec 02 B.7)."""

    SUCCESS = 0x00
    INVALID_OPCODE = 0x01
    INTERNAL_ERROR = 0x07
    INVALID_PSDT = 0xC0
    INVALID_SRC_LENGTH = 0xC1
    INVALID_DST_LENGTH = 0xC2
    INVALID_SRC_PRP = 0xC3
    INVALID_DST_PRP = 0xC4
    DMA_MISSING = 0xC5
    DMA_ERROR = 0xC6
    DMA_TAG_MISMATCH = 0xC7
    DMA_NOT_STARTED = 0xC9


MAX_SRC_BYTES: Final = 4096
"""Longest request that passes the length check."""
MAX_REQUEST_BYTES: Final = 3584
"""Size of a request or response buffer: longer requests get INTERNAL_ERROR, responses never are."""
MAX_DST_BYTES: Final = 8192
