# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""User interface of the Linux driver: ioctls, extended statuses (spec 02 A, G; 01 §8.5, §10, §11).

Buffers lie as a 64-bit Linux lays out the driver's C structures. Fields have the specification's names; where it has a
name twice in one structure, that of the answer begins with `out_`. `python -m ihsm_abi.cheader --uapi OUT.h` writes all
this for C and C++.
"""

from enum import IntEnum
from typing import Final

import numpy as np

DRIVER_VERSION: Final = "3.2.0"
"""`driver_rev` of the device information (02 G)."""
MINOR_COUNT: Final = 16 * 65
"""Minors of each of the two regions of device numbers, from 0 (02 A.1); what they are called is in `uapi_names`."""

# Limits (02 A.3, A.6).

MAX_SESSIONS_PER_FD: Final = 1
NO_SESSION_ID: Final = 0xFFFF
"""`id` of an open file's slot without a session (02 A.3)."""
NO_SHORT_APP_ID: Final = 0xFF
MAX_SRC_LENGTH: Final = 8192
"""Longest request that the driver takes; the device takes less (`hsm_queue.MAX_REQUEST_BYTES`)."""
MAX_DST_LENGTH: Final = 8192
SESSION_CMDSET: Final = 0
"""The only `cmdset` of the session ioctl."""


def _text(size: int) -> tuple[np.dtype[np.uint8], int]:
    """Bytes that end in NULs; C programs see characters."""
    return np.dtype("u1", metadata={"c": "char"}), size


IOCTL_HEADER: Final = np.dtype(
    {
        "names": ["szioctldata", "appcmdid", "timeout", "flags"],
        "formats": ["<u4"] * 4,
        "offsets": [0, 4, 8, 12],
        "itemsize": 16,
    }
)
"""Begins the buffers of sessions, AES and reset; only `szioctldata`, the buffer's size, is looked at (02 A.5)."""
GENERIC_IOCTL: Final = np.dtype(
    {
        "names": [
            "hdr", "ctxt", "opc", "cmdset", "psdt", "src_length", "src_buf", "dst_length", "dst_buf",
            "session_control_flags", "session_id", "out_ctxt", "status", "byte_count", "extended_status",
        ],
        "formats": [
            IOCTL_HEADER, "<u8", "<u2", "<u2", "u1", "<u4", "<u8", "<u4", "<u8",
            "u1", "<u2", "<u8", "<u4", "<u4", "<u4",
        ],
        "offsets": [0, 16, 24, 26, 28, 32, 40, 48, 56, 64, 66, 88, 96, 100, 104],
        "itemsize": 112,
    }
)  # fmt: skip
"""An HSM command of an open file (02 A.6); of `hsm_queue.SessionControl` the flags have `kind` and `id_valid`."""

_AES_NAMES = [
    "hdr", "ctxt", "op_code", "cipher", "src_ptr", "src_len", "dst_ptr", "dst_len",
    "frame_type", "session_id", "short_app_id",
]  # fmt: skip
_AES_FORMATS = [IOCTL_HEADER, "<u8", "u1", "u1", "<u8", "<u4", "<u8", "<u4", "u1", "<u2", "u1"]
_AES_OFFSETS = [0, 16, 24, 25, 32, 40, 48, 56, 64, 66, 68]
_AES_OUT_NAMES = [
    "out_ctxt", "result", "cmd_spec", "byte_count", "extended_status", "fips_approved", "iv_from_fw",
]  # fmt: skip
_AES_OUT_FORMATS = ["<u8", "<u4", ("u1", 16), "<u4", "<u4", "u1", ("u1", 12)]
_AES_OUT_OFFSETS = [240, 248, 252, 268, 272, 276, 280]

AES_IOCTL: Final = np.dtype(
    {
        "names": _AES_NAMES + _AES_OUT_NAMES,
        "formats": _AES_FORMATS + _AES_OUT_FORMATS,
        "offsets": _AES_OFFSETS + _AES_OUT_OFFSETS,
        "itemsize": 400,
    }
)
"""What the AES commands of both ciphers have in common (02 A.7); `cmd_spec` is the tag of a GCM encryption."""
GCM_IOCTL: Final = np.dtype(
    {
        "names": [
            *_AES_NAMES, "key_id", "tag", "init_vector", "actual_aad_data_len", "aligned_aad_len",
            "enable_gcm_workaround", *_AES_OUT_NAMES,
        ],
        "formats": [*_AES_FORMATS, "<u4", ("u1", 16), ("u1", 12), "<u4", "<u4", "u1", *_AES_OUT_FORMATS],
        "offsets": [*_AES_OFFSETS, 72, 76, 92, 104, 108, 112, *_AES_OUT_OFFSETS],
        "itemsize": 400,
    }
)  # fmt: skip
"""`AES_IOCTL` with the union of 02 A.7 as an AES-GCM command has it."""
XTS_IOCTL: Final = np.dtype(
    {
        "names": [*_AES_NAMES, "data_unit_len", "key_id1", "key_id2", "tweak", *_AES_OUT_NAMES],
        "formats": [*_AES_FORMATS, "<u2", "<u4", "<u4", ("u1", 16), *_AES_OUT_FORMATS],
        "offsets": [*_AES_OFFSETS, 72, 76, 80, 84, *_AES_OUT_OFFSETS],
        "itemsize": 400,
    }
)
"""`AES_IOCTL` with the union as an AES-XTS command has it; `data_unit_len` is a code (`aes_queue.DATA_UNIT_BYTES`)."""
RESET_DEVICE: Final = np.dtype(
    {
        "names": ["hdr", "ctxt", "abort_type", "abort_sts"],
        "formats": [IOCTL_HEADER, "<u8", "<u4", "<u4"],
        "offsets": [0, 16, 24, 108],
        "itemsize": 272,
    }
)
"""`AbortType` in, `AbortStatus` out (02 A.10, 01 §8.5)."""
TEST_HOOKS: Final = np.dtype(
    {
        "names": [
            "abort_in_prog", "lvl1_abort_cnt", "lvl2_abort_cnt", "proc_not_own_fd", "session_flush_cnt",
            "close_non_own_proc_cnt",
        ],
        "formats": ["<u4", "<u4", "<u4", "<u8", "<u8", "<u8"],
        "offsets": [0, 4, 8, 16, 24, 32],
        "itemsize": 40,
    }
)  # fmt: skip
"""Counters of a driver built with test hooks (02 A.11)."""
RES_CNT: Final = np.dtype(
    {
        "names": ["argsz", "vf_idx", "res_cnt", "status"],
        "formats": ["<u4", "<u2", "<u2", "<u4"],
        "offsets": [0, 4, 6, 8],
        "itemsize": 12,
    }
)
"""Resources of a VF, to set or to get (02 A.12); `status` is a `MgmtStatus`."""
VF_COUNT: Final = np.dtype(
    {"names": ["argsz", "vf_count"], "formats": ["<u4", "<u2"], "offsets": [0, 4], "itemsize": 8}
)
"""Number of VFs (02 A.12)."""
VF_COUNT_COPIED: Final = 6
"""Bytes of `VF_COUNT` that are copied in and out."""
DEVICE_INFO: Final = np.dtype(
    {
        "names": [
            "argsz", "id", "pci_info", "serial_num", "model_num", "firmware_rev", "driver_rev", "device_entropy",
        ],
        "formats": ["<u4", "<u2", _text(33), _text(33), _text(5), _text(33), _text(16), ("u1", 32)],
        "offsets": [0, 4, 6, 39, 72, 77, 110, 143],
        "itemsize": 176,
    }
)  # fmt: skip
"""Device information of both nodes (02 G)."""
DEVICE_INFO_COPIED: Final = 175
"""Bytes of `DEVICE_INFO` that are copied in and out."""

HSM_IOCTL_TYPE: Final = ord("B")
MGMT_IOCTL_TYPE: Final = ord("A")


def _iowr(ioctl_type: int, number: int, buffer: np.dtype[np.void]) -> int:
    """Linux's _IOWR: direction read and write, size, type, number."""
    return 3 << 30 | buffer.itemsize << 16 | ioctl_type << 8 | number


class Ioctl(IntEnum):
    """ioctl numbers (02 A.4). A driver compares all 32 bits, so a wrong size is an unknown number."""

    GENERIC = _iowr(HSM_IOCTL_TYPE, 0x02, GENERIC_IOCTL)
    """Of older programs; refused."""
    GENERIC_SESSION = _iowr(HSM_IOCTL_TYPE, 0x03, GENERIC_IOCTL)
    GET_DEV_INFO = _iowr(HSM_IOCTL_TYPE, 0x04, DEVICE_INFO)
    GET_TEST_HOOKS = _iowr(HSM_IOCTL_TYPE, 0x05, TEST_HOOKS)
    RESET = _iowr(HSM_IOCTL_TYPE, 0x06, RESET_DEVICE)
    AES_XTS = _iowr(HSM_IOCTL_TYPE, 0x0B, AES_IOCTL)
    AES_GCM = _iowr(HSM_IOCTL_TYPE, 0x0C, AES_IOCTL)
    SET_RES_CNT = _iowr(MGMT_IOCTL_TYPE, 0x02, RES_CNT)
    GET_RES_CNT = _iowr(MGMT_IOCTL_TYPE, 0x03, RES_CNT)
    GET_VF_COUNT = _iowr(MGMT_IOCTL_TYPE, 0x04, VF_COUNT)
    MGMT_GET_DEV_INFO = _iowr(MGMT_IOCTL_TYPE, 0x05, DEVICE_INFO)


class AesOp(IntEnum):
    """`op_code` of an AES command (02 A.7); its `cipher` is an `aes_queue.Cipher`."""

    ENCRYPT = 0
    DECRYPT = 1


class CpStatus(IntEnum):
    """Extended status of the session ioctl (02 A.9)."""

    NO_MEMORY = 1
    INVALID_CMDSET = 2
    INPUT_BUFFER_ABOVE_8K = 3
    OUTPUT_BUFFER_ABOVE_8K = 4
    INVALID_INPUT_BUFFER = 5
    INPUT_BUFFER_ACCESS_ERROR = 6
    INVALID_OUTPUT_BUFFER = 7
    OUTPUT_BUFFER_ACCESS_ERROR = 8
    PROCESS_NOT_OWNER_OF_FD = 9
    DEVICE_ERROR = 10
    OPEN_SESSION_SESSION_LIMIT_REACHED = 11
    NO_EXISTING_SESSION = 12
    INVALID_SESSION_OPCODE = 13
    SESSION_ID_MISMATCH = 14
    RETRY_CMD = 15


class FpStatus(IntEnum):
    """Extended status of the AES ioctls (02 A.9)."""

    NO_MEMORY = 100
    INVALID_INPUT_BUFFER = 101
    INPUT_BUFFER_ACCESS_ERROR = 102
    INVALID_OUTPUT_BUFFER = 103
    OUTPUT_BUFFER_ACCESS_ERROR = 104
    PROCESS_NOT_OWNER_OF_FD = 105
    DEVICE_ERROR = 106
    SESSION_ID_DOES_NOT_MATCH = 107
    SHORTAPP_ID_DOES_NOT_MATCH = 108
    NO_VALID_SESSION_ID = 109
    NO_VALID_SHORT_APP_ID = 110
    DEVICE_NO_FP_QUEUES = 111
    INVALID_CIPHER_TYPE = 112
    INVALID_FRAME_TYPE = 113
    INVALID_OPCODE = 114
    INPUT_BUFFER_ABOVE_MAX = 115
    OUTPUT_BUFFER_ABOVE_MAX = 116
    AES_GCM_IOCTL_VALIDATION_FAILED = 117
    AES_XTS_IOCTL_VALIDATION_FAILED = 118


class StatusSource(IntEnum):
    """Upper byte of a composite extended status (02 A.9, 01 §11); only ABORT is ever sent."""

    NONE = 0
    DEVICE = 1
    CP = 2
    FP = 3
    ABORT = 4


def composite(source: StatusSource, code: int) -> int:
    """Extended status with its source (02 A.9)."""
    return source << 24 | code


class AbortExtendedStatus(IntEnum):
    """The composite extended statuses that callers see (02 A.8, A.9)."""

    ABORT_IN_PROGRESS = composite(StatusSource.ABORT, 1)
    CMD_ABORTED = composite(StatusSource.ABORT, 2)
    DEVICE_ERROR = composite(StatusSource.ABORT, CpStatus.DEVICE_ERROR)


class InternalCode(IntEnum):
    """How a command ended inside the driver (02 A.8); the AES ioctls show it as it is."""

    SUCCESS = 0
    ABORTED = 1
    ABORT_IN_PROGRESS = 2
    QSELECT_FAILED = 3
    QDISABLED = 4
    UNDEFINED = 5
    CTRL_NOT_READY = 6


class AbortType(IntEnum):
    """What an abort is to do (01 §11, 02 A.10); programs ask for the last two."""

    TIMEOUT = 0
    L2_NSSR = 1
    L2_RESET = 2


class AbortStatus(IntEnum):
    """`abort_sts` of the reset ioctl (01 §8.5, 02 A.10)."""

    SUCCESS = 0
    ALREADY_IN_PROGRESS = 1
    INVALID_DEVICE_STATE = 2
    FAILED = 3
    INVALID_TYPE = 4
    TIMED_OUT = 5
    NOT_SUPPORTED = 6


class AbortResult(IntEnum):
    """What the driver's abort function returns (01 §11)."""

    SUCCESS = 0
    IN_PROGRESS = 1
    LEVEL_ONE_FAILED = 2
    LEVEL_TWO_FAILED = 3


class ControllerState(IntEnum):
    """How far the driver has brought up a controller (01 §11)."""

    NOT_INITIALIZED = 0
    INIT_IN_PROGRESS = 1
    READY = 2


class MgmtStatus(IntEnum):
    """`status` of the management ioctls (01 §10, 02 A.12)."""

    SUCCESS = 0
    NOT_PF = 1
    INVALID_VF_IDX = 2
    RES_CNT_ALREADY_SET = 3
    SET_RES_CNT_FAILED = 4
    RES_CNT_NOT_SET = 5
    DEVICE_INFO_INVALID_BUF_SIZE = 6
    GET_RES_CNT_FAILED = 7
