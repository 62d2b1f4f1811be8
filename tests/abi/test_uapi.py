# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The Linux driver's user interface against the tables and examples of the specification (02 A, G, H.2)."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ihsm_abi import hsm_queue, uapi

HEADER = [(0, 4, "szioctldata"), (4, 4, "appcmdid"), (8, 4, "timeout"), (12, 4, "flags")]
AES_IN = [
    (0, 16, "hdr"), (16, 8, "ctxt"), (24, 1, "op_code"), (25, 1, "cipher"), (32, 8, "src_ptr"), (40, 4, "src_len"),
    (48, 8, "dst_ptr"), (56, 4, "dst_len"), (64, 1, "frame_type"), (66, 2, "session_id"), (68, 1, "short_app_id"),
]  # fmt: skip
AES_OUT = [
    (240, 8, "out_ctxt"), (248, 4, "result"), (252, 16, "cmd_spec"), (268, 4, "byte_count"),
    (272, 4, "extended_status"), (276, 1, "fips_approved"), (280, 12, "iv_from_fw"),
]  # fmt: skip
GCM = [
    (72, 4, "key_id"), (76, 16, "tag"), (92, 12, "init_vector"), (104, 4, "actual_aad_data_len"),
    (108, 4, "aligned_aad_len"), (112, 1, "enable_gcm_workaround"),
]  # fmt: skip
XTS = [(72, 2, "data_unit_len"), (76, 4, "key_id1"), (80, 4, "key_id2"), (84, 16, "tweak")]
TABLES: dict[str, tuple[np.dtype[Any], int, list[tuple[int, int, str]]]] = {
    "ihsm_ioctl_header": (uapi.IOCTL_HEADER, 16, HEADER),
    "ihsm_generic_ioctl": (
        uapi.GENERIC_IOCTL,
        112,
        [
            (0, 16, "hdr"), (16, 8, "ctxt"), (24, 2, "opc"), (26, 2, "cmdset"), (28, 1, "psdt"), (32, 4, "src_length"),
            (40, 8, "src_buf"), (48, 4, "dst_length"), (56, 8, "dst_buf"), (64, 1, "session_control_flags"),
            (66, 2, "session_id"), (88, 8, "out_ctxt"), (96, 4, "status"), (100, 4, "byte_count"),
            (104, 4, "extended_status"),
        ],
    ),
    "ihsm_aes_ioctl": (uapi.AES_IOCTL, 400, AES_IN + AES_OUT),
    "ihsm_gcm_ioctl": (uapi.GCM_IOCTL, 400, AES_IN + GCM + AES_OUT),
    "ihsm_xts_ioctl": (uapi.XTS_IOCTL, 400, AES_IN + XTS + AES_OUT),
    "ihsm_reset_device": (
        uapi.RESET_DEVICE,
        272,
        [(0, 16, "hdr"), (16, 8, "ctxt"), (24, 4, "abort_type"), (108, 4, "abort_sts")],
    ),
    "ihsm_test_hooks": (
        uapi.TEST_HOOKS,
        40,
        [
            (0, 4, "abort_in_prog"), (4, 4, "lvl1_abort_cnt"), (8, 4, "lvl2_abort_cnt"), (16, 8, "proc_not_own_fd"),
            (24, 8, "session_flush_cnt"), (32, 8, "close_non_own_proc_cnt"),
        ],
    ),
    "ihsm_res_cnt": (uapi.RES_CNT, 12, [(0, 4, "argsz"), (4, 2, "vf_idx"), (6, 2, "res_cnt"), (8, 4, "status")]),
    "ihsm_vf_count": (uapi.VF_COUNT, 8, [(0, 4, "argsz"), (4, 2, "vf_count")]),
    "ihsm_device_info": (
        uapi.DEVICE_INFO,
        176,
        [
            (0, 4, "argsz"), (4, 2, "id"), (6, 33, "pci_info"), (39, 33, "serial_num"), (72, 5, "model_num"),
            (77, 33, "firmware_rev"), (110, 16, "driver_rev"), (143, 32, "device_entropy"),
        ],
    ),
}  # fmt: skip
"""Structure, its size, and offset, size and name of its fields, from the tables of 02 A.5-A.7, A.10-A.12 and G."""
NUMBERS = {
    "GENERIC": (0xC0704202, "B", 2, "ihsm_generic_ioctl"),
    "GENERIC_SESSION": (0xC0704203, "B", 3, "ihsm_generic_ioctl"),
    "GET_DEV_INFO": (0xC0B04204, "B", 4, "ihsm_device_info"),
    "GET_TEST_HOOKS": (0xC0284205, "B", 5, "ihsm_test_hooks"),
    "RESET": (0xC1104206, "B", 6, "ihsm_reset_device"),
    "AES_XTS": (0xC190420B, "B", 0x0B, "ihsm_xts_ioctl"),
    "AES_GCM": (0xC190420C, "B", 0x0C, "ihsm_gcm_ioctl"),
    "SET_RES_CNT": (0xC00C4102, "A", 2, "ihsm_res_cnt"),
    "GET_RES_CNT": (0xC00C4103, "A", 3, "ihsm_res_cnt"),
    "GET_VF_COUNT": (0xC0084104, "A", 4, "ihsm_vf_count"),
    "MGMT_GET_DEV_INFO": (0xC0B04105, "A", 5, "ihsm_device_info"),
}
"""Value, type, number and structure (02 A.4)."""
STATUSES = {
    "IHSM_CP_STATUS_NO_MEMORY": 1,
    "IHSM_CP_STATUS_RETRY_CMD": 15,
    "IHSM_FP_STATUS_NO_MEMORY": 100,
    "IHSM_FP_STATUS_AES_XTS_IOCTL_VALIDATION_FAILED": 118,
    "IHSM_ABORT_EXTENDED_STATUS_ABORT_IN_PROGRESS": 0x04000001,
    "IHSM_ABORT_EXTENDED_STATUS_CMD_ABORTED": 0x04000002,
    "IHSM_ABORT_EXTENDED_STATUS_DEVICE_ERROR": 0x0400000A,
    "IHSM_INTERNAL_CODE_CTRL_NOT_READY": 6,
    "IHSM_ABORT_TYPE_L2_RESET": 2,
    "IHSM_ABORT_STATUS_INVALID_TYPE": 4,
    "IHSM_MGMT_STATUS_GET_RES_CNT_FAILED": 7,
    "IHSM_MAX_SRC_LENGTH": 8192,
    "IHSM_MINOR_COUNT": 1040,
    "IHSM_DEVICE_INFO_COPIED": 175,
    "IHSM_SESSION_CONTROL_ID_VALID_SHIFT": 2,
    "IHSM_FRAME_TYPE_AES": 1,
}
LANGUAGES = {"c99": ("cc", "c"), "c11": ("cc", "c"), "c++17": ("c++", "cpp")}


@pytest.mark.parametrize("name", TABLES)
def test_structures_have_the_offsets_of_the_tables(name: str) -> None:
    dtype, size, table = TABLES[name]
    assert dtype.fields is not None
    assert dtype.itemsize == size
    found = {field: (offset, ftype.itemsize) for field, (ftype, offset, *_) in dtype.fields.items()}
    assert found == {field: (offset, length) for offset, length, field in table}


def test_ioctl_numbers() -> None:
    assert {ioctl.name: ioctl.value for ioctl in uapi.Ioctl} == {name: row[0] for name, row in NUMBERS.items()}


def test_session_ioctl_example() -> None:
    """02 H.2: the buffer of an in-session command, session 3."""
    flags = hsm_queue.SessionControl.of(kind=hsm_queue.ControlKind.IN_SESSION, id_valid=1)
    record = np.zeros((), uapi.GENERIC_IOCTL)
    record["hdr"] = (112, 0xCD1DDEAD, 100, 0)
    record["src_length"], record["src_buf"] = 88, 0x7F0000001000
    record["dst_length"], record["dst_buf"] = 8192, 0x7F0000003000
    record["session_control_flags"], record["session_id"] = flags, 3
    assert record.tobytes() == bytes.fromhex(
        "70000000 ad de 1d cd 64000000 00000000" + "00" * 16 + "5800000000000000 00100000007f0000"
        "0020000000000000 00300000007f0000 07000300 00000000 0000000000000000" + "00" * 32
    )


@given(hnp.arrays(np.uint8, 400), st.integers(0, 2**32 - 1))
def test_views_of_the_aes_buffer_share_all_but_the_union(raw: np.ndarray[Any, np.dtype[np.uint8]], key: int) -> None:
    """02 A.7: what one view writes outside the union, the others read, and nothing else changes."""
    before = raw.tobytes()
    gcm, xts, both = (raw.view(dtype)[0] for dtype in (uapi.GCM_IOCTL, uapi.XTS_IOCTL, uapi.AES_IOCTL))
    for name in uapi.AES_IOCTL.names or ():
        assert gcm[name].tobytes() == xts[name].tobytes() == both[name].tobytes()
    raw.view(uapi.XTS_IOCTL)["key_id1"] = key
    assert bytes(raw[:76]) + bytes(raw[80:]) == before[:76] + before[80:]
    assert raw.view(uapi.GCM_IOCTL)[0]["tag"][:4].tobytes() == key.to_bytes(4, "little")


def test_extended_statuses_are_numbered_without_gaps() -> None:
    """02 A.9."""
    assert [*map(int, uapi.CpStatus)] == [*range(1, 16)]
    assert [*map(int, uapi.FpStatus)] == [*range(100, 119)]
    assert [*map(int, uapi.AbortExtendedStatus)] == [0x04000001, 0x04000002, 0x0400000A]
    assert uapi.composite(uapi.StatusSource.ABORT, uapi.FpStatus.DEVICE_ERROR) == 0x0400006A


def program() -> str:
    """Program with the tables of this file as assertions, and Linux's own macro for the numbers."""
    checks = []
    for name, (_, size, table) in TABLES.items():
        checks.append(f"sizeof(struct {name}) == {size}")
        for offset, length, field in table:
            checks.append(f"offsetof(struct {name}, {field}) == {offset}")
            checks.append(f"sizeof(((struct {name} *)0)->{field}) == {length}")
    for name, (value, letter, number, struct) in NUMBERS.items():
        checks.append(f"IHSM_IOCTL_{name} == {value:#x}")
        checks.append(f"IHSM_IOCTL_{name} == _IOWR('{letter}', {number}, struct {struct})")
    checks += [f"(int){name} == {value:#x}" for name, value in STATUSES.items()]
    lines = "\n".join(f"IHSM_LAYOUT({check});" for check in checks)
    return (
        f'#include "ihsm-uapi.h"\n#include <string.h>\n#include <sys/ioctl.h>\n{lines}\n'
        "int main(void)\n{\n    struct ihsm_device_info info;\n    memset(&info, 0, sizeof info);\n"
        '    strcpy(info.driver_rev, IHSM_DRIVER_VERSION);\n    return strcmp(info.driver_rev, "3.2.0");\n}\n'
    )


@pytest.mark.parametrize("standard", LANGUAGES)
def test_header_for_programs(tmp_path: Path, standard: str) -> None:
    compiler, suffix = LANGUAGES[standard]
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    subprocess.run([sys.executable, "-m", "ihsm_abi.cheader", "--uapi", tmp_path / "ihsm-uapi.h"], check=True)
    source = tmp_path / f"unit.{suffix}"
    source.write_text(program())
    flags = [f"-std={standard}", "-Wall", "-Wextra", "-pedantic", "-Werror", "-o", "unit"]
    subprocess.run([compiler, *flags, source], cwd=tmp_path, check=True)
    subprocess.run([tmp_path / "unit"], check=True)
