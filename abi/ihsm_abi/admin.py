# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Admin queue: entries, commands, identify page, features, status codes (spec 01 §6, §14.3)."""

from enum import IntEnum
from typing import Final

import numpy as np

from ihsm_abi.bits import Bits, Word

ADMIN_SQE: Final = np.dtype(
    {
        "names": ["opc", "flags", "cid", "mptr", "prp1", "prp2", "dw10", "dw11", "dw12", "dw13", "dw14", "dw15"],
        "formats": ["u1", "u1", "<u2", "<u8", "<u8", "<u8", "<u4", "<u4", "<u4", "<u4", "<u4", "<u4"],
        "offsets": [0, 1, 2, 16, 24, 32, 40, 44, 48, 52, 56, 60],
        "itemsize": 64,
    }
)
ADMIN_CQE: Final = np.dtype(
    {
        "names": ["dw0", "sqhd", "sqid", "cid", "psf"],
        "formats": ["<u4", "<u2", "<u2", "<u2", "<u2"],
        "offsets": [0, 8, 10, 12, 14],
        "itemsize": 16,
    }
)


class AdminOpcode(IntEnum):
    """Admin commands (spec 01 §6.3, §14.4)."""

    DELETE_SQ = 0x00
    CREATE_SQ = 0x01
    DELETE_CQ = 0x04
    CREATE_CQ = 0x05
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    SET_RES_CNT = 0xC3
    GET_RES_CNT = 0xC4
    VF_PREP = 0xC5
    VF_STOP = 0xC6
    VF_START = 0xC7
    VF_SAVE = 0xC8
    VF_RESTORE = 0xC9


class AdminStatus(IntEnum):
    """15-bit host status (bits 15:1 of `psf`); 0x4000 is DNR (spec 01 §14.3)."""

    SUCCESS = 0x0000
    INVALID_OPCODE = 0x4001
    INVALID_FIELD = 0x4002
    DATA_TRANSFER_ERROR = 0x4004
    INTERNAL_ERROR = 0x4007
    INVALID_CQ_ID = 0x4100
    INVALID_QUEUE_ID = 0x4101
    INVALID_QUEUE_SIZE = 0x4102
    INVALID_INTERRUPT_VECTOR = 0x4108
    INVALID_QUEUE_DELETE = 0x410C


class Psf(Word):
    """Phase and status of an admin or HSM CQE."""

    phase = Bits(0)
    status = Bits(1, 15)
    sc = Bits(1, 11)


class Feature(IntEnum):
    """Feature ids of SET/GET FEATURES (spec 01 §6.5)."""

    HSM_QUEUE_COUNT = 0x07
    AES_QUEUE_COUNT = 0xC1
    AES_FW_CAPS = 0xC2


AES_FW_CAPS_GCM_WORKAROUND: Final = 0x1


class QueueCounts(Word):
    """dw0/dw11 of the queue-count features: numbers of SQs and CQs, 0's based in the answer."""

    sqs = Bits(0, 16)
    cqs = Bits(16, 16)


class IdentifyDw10(Word):
    """dw10 of IDENTIFY."""

    cns = Bits(0, 8)
    ctrl_id = Bits(16, 16)


CNS_CONTROLLER: Final = 0x01


class FeatureDw10(Word):
    """dw10 of SET/GET FEATURES."""

    feat_id = Bits(0, 8)


class QueueDw10(Word):
    """dw10 of the queue commands: id, and the 0's based size on creation."""

    id = Bits(0, 16)
    size = Bits(16, 16)


class CreateCqDw11(Word):
    """dw11 of CREATE_CQ."""

    pc = Bits(0)
    ien = Bits(1)
    ivec = Bits(16, 16)


class CreateSqDw11(Word):
    """dw11 of CREATE_SQ."""

    pc = Bits(0)
    qprio = Bits(1, 2)
    cqid = Bits(16, 16)


IDENTIFY: Final = np.dtype(
    {
        "names": [
            "vid", "ssvid", "sn", "fr", "cp_mdts", "ctrl_id", "acl", "cp_sqes", "cp_cqes", "cp_maxcmd",
            "fp_mdts", "fp_sqes", "fp_cqes", "fp_maxcmd", "svn", "ver", "ctrl_type", "frmw",
        ],
        "formats": [
            "<u2", "<u2", "S32", "S32", "u1", "<u2", "u1", "u1", "u1", "<u2",
            "u1", "u1", "u1", "<u2", "<u8", "<u4", "u1", "u1",
        ],
        "offsets": [0, 2, 4, 36, 72, 74, 76, 77, 78, 80, 82, 83, 84, 86, 88, 96, 100, 101],
        "itemsize": 102,
    }
)  # fmt: skip
"""Controller identity (spec 01 §6.4); firmware puts its SVN at 88 where the driver's header has OACS and SGLS."""

IDENTIFY_SIZES: Final = {"cp_sqes": 0x66, "cp_cqes": 0x44, "fp_sqes": 0x77, "fp_cqes": 0x66}
"""log2 of the entry sizes, maximum in the low nibble, minimum in the high one."""
