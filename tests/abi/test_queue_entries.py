# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Queue entries against the worked examples of the interface description (spec 01 §6, 02 part H)."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi import admin, aes_queue, cheader, doorbells, hsm_queue, registers
from ihsm_abi.bits import Word


def entry(dtype: np.dtype[np.void], **fields: object) -> bytes:
    """One queue entry with the given fields, all other bytes 0."""
    record = np.zeros(1, dtype)
    for name, value in fields.items():
        record[name] = value
    return record.tobytes()


def test_admin_identify_example() -> None:
    sqe = entry(admin.ADMIN_SQE, opc=0x06, cid=9, prp1=0x1234567000, dw10=admin.IdentifyDw10.of(cns=1))
    assert sqe == bytes.fromhex("06000900" + "00" * 20 + "0070563412000000" + "00" * 8 + "01000000" + "00" * 20)


def test_admin_create_cq_and_sq_examples() -> None:
    cq = entry(
        admin.ADMIN_SQE,
        opc=admin.AdminOpcode.CREATE_CQ,
        cid=11,
        prp1=0x123456B000,
        dw10=admin.QueueDw10.of(id=257, size=15),
        dw11=admin.CreateCqDw11.of(pc=1, ien=1, ivec=17),
    )
    assert (cq[:4].hex(), cq[24:32].hex(), cq[40:48].hex()) == ("05000b00", "00b0563412000000", "01010f0003001100")
    sq = entry(
        admin.ADMIN_SQE,
        opc=admin.AdminOpcode.CREATE_SQ,
        cid=12,
        prp1=0x123456C000,
        dw10=admin.QueueDw10.of(id=257, size=15),
        dw11=admin.CreateSqDw11.of(pc=1, qprio=1, cqid=257),
    )
    assert (sq[:4].hex(), sq[24:32].hex(), sq[40:48].hex()) == ("01000c00", "00c0563412000000", "01010f0003000101")


def test_admin_cqe_examples() -> None:
    psf = admin.Psf.of(phase=1, status=admin.AdminStatus.SUCCESS)
    assert entry(admin.ADMIN_CQE, sqhd=1, cid=9, psf=psf).hex() == "00000000000000000100000009000100"
    psf = admin.Psf.of(phase=1, status=admin.AdminStatus.INVALID_OPCODE)
    assert entry(admin.ADMIN_CQE, sqhd=4, cid=5, psf=psf).hex() == "00000000000000000400000005000380"
    assert admin.Psf(psf).sc == 1


def test_hsm_open_session_example() -> None:
    """02 H.1."""
    sqe = entry(
        hsm_queue.HSM_SQE,
        command=hsm_queue.HsmCommandWord.of(opc=hsm_queue.HsmOpcode.NORMAL),
        cid=5,
        src_len=418,
        src_prp1=0x1_2345_6000,
        dst_len=8192,
        dst_prp1=0x1_2346_0000,
        dst_prp2=0x1_2346_1000,
        control=hsm_queue.SessionControl.of(kind=hsm_queue.ControlKind.OPEN),
    )
    assert sqe == bytes.fromhex(
        "00000500a20100000060452301000000000000000000000000200000000046230100000000104623010000000100000000000000"
        "000000000000000000000000"
    )
    flags = hsm_queue.SessionControl.of(kind=hsm_queue.ControlKind.OPEN, id_valid=1, short_app_id_valid=1)
    cqe = entry(
        hsm_queue.HSM_CQE,
        byte_count=156,
        control=flags,
        session_id=3,
        sqhd=6,
        sqid=1,
        cid=5,
        psf=admin.Psf.of(phase=1),
    )
    assert cqe.hex() == "9c000d00030000000600010005000100"


def test_hsm_flush_and_rejection_examples() -> None:
    """02 H.3."""
    flags = hsm_queue.SessionControl.of(kind=hsm_queue.ControlKind.CLOSE, id_valid=1, session_closed=1)
    cqe = entry(hsm_queue.HSM_CQE, control=flags, session_id=3, sqhd=9, sqid=1, cid=8, psf=1)
    assert cqe.hex() == "00001600030000000900010008000100"
    psf = admin.Psf.of(phase=1, sc=hsm_queue.HsmStatus.INVALID_SRC_LENGTH)
    assert entry(hsm_queue.HSM_CQE, sqhd=10, sqid=1, cid=9, psf=psf).hex() == "00000000000000000a00010009008301"


GCM_H4 = bytes.fromhex(
    "000000002c0002000300000000000000000000000000000040000000001000000200000010000000000000304000000000300000020000"
    "001000000000000030010000001100000" + "00b000000" + "00" * 28 + "20000000050500000070000002000000007000000200"
    "0000"
)


def test_gcm_example() -> None:
    """02 H.4."""
    sqe = np.frombuffer(GCM_H4, aes_queue.GCM_SQE)[0]
    attr = aes_queue.AesAttr(int(sqe["attr"]))
    assert (attr.decrypt, attr.psdt, attr.cmd_type, attr.cipher) == (0, 1, aes_queue.CMD_TYPE_FAST_PATH, 0)
    assert (sqe["cmd_id"], sqe["session_id"], sqe["src_len"], sqe["dst_len"]) == (2, 3, 64, 64)
    assert (sqe["src"]["addr"], sqe["src"]["len"], sqe["src"]["type"]) == (0x2_0000_1000, 16, 0x30)
    assert (sqe["key_id"], sqe["actual_aad_len"], sqe["aligned_aad_len"]) == (0x11, 11, 32)
    assert (sqe["tail_src_len"], sqe["tail_dst_len"]) == (5, 5)
    assert (sqe["tail_src_addr"], sqe["tail_dst_addr"]) == (0x2_0000_7000, 0x2_0000_7000)
    cqe = entry(
        aes_queue.AES_CQE,
        attr=attr,
        cmd_id=2,
        tag=[*bytes.fromhex("7bbd9042b40455322915823e8d907102")],
        iv=[*range(0x10, 0x1C)],
        tail_dst_len=5,
        fips_approved=1,
        len=64,
        sqhd=3,
        sqid=256,
        psf=1,
    )
    assert cqe == bytes.fromhex(
        "2c0002007bbd9042b40455322915823e8d907102101112131415161718191a1b000000000000000000000000050000000100000040000000"
        "0300000100000100"
    )


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({}, 0x002C),
        ({"decrypt": 1}, 0x002D),
        ({"cipher": 1}, 0x012C),
        ({"cipher": 1, "decrypt": 1}, 0x012D),
        ({"cipher": 1, "dul": 1}, 0x412C),
        ({"cipher": 1, "dul": 3}, 0xC12C),
    ],
)
def test_aes_attr_values(fields: dict[str, int], value: int) -> None:
    """02 C.2."""
    assert aes_queue.AesAttr.of(psdt=1, cmd_type=5, **fields) == value


def test_register_values() -> None:
    assert registers.Register.CAP.reset == 0x0000_0030_1403_03FF
    assert registers.Register.VS.reset == 0x0001_0400
    assert registers.Cap(registers.Register.CAP.reset).ready_timeout_s == 10.5
    assert registers.Cc.of(en=1, cp_iosqes=6, cp_iocqes=4, fp_iosqes=7, fp_iocqes=6) == 0x67460001
    assert registers.NSSR_MAGIC.to_bytes(4, "big") == b"NVMe"


def test_doorbell_offsets() -> None:
    """The table of 01 §3."""
    table = {0: (0, 4), 1: (8, 12), 2: (16, 20), 65: (0x208, 0x20C), 256: (0x800, 0x804), 385: (0xC08, 0xC0C)}
    for queue_id, offsets in table.items():
        assert (doorbells.sq_tail_offset(queue_id), doorbells.cq_head_offset(queue_id)) == offsets
        assert [doorbells.decode(offset) for offset in offsets] == [(queue_id, False), (queue_id, True)]
    assert doorbells.decode(0x802) is None


@given(st.integers(0, 2**32 - 1), st.integers(0, 15))
def test_bit_fields_are_independent(word: int, size: int) -> None:
    cc = registers.Cc(word).replace(fp_iocqes=size)
    assert cc.fp_iocqes == size
    assert cc & 0x0FFF_FFFF == word & 0x0FFF_FFFF


def test_bit_field_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="fp_iocqes: 0x10 exceeds"):
        registers.Cc.of(fp_iocqes=16)
    with pytest.raises(TypeError, match="no field nope"):
        Word.of(nope=1)


def test_c_header_compiles_with_its_asserts(tmp_path: Path) -> None:
    (tmp_path / "abi.h").write_text(cheader.WIRE.render())
    (tmp_path / "unit.c").write_text('#include "abi.h"\nint main(void) { return 0; }\n')
    subprocess.run(["cc", "-Wall", "-Wextra", "-Werror", "-c", "unit.c", "-o", "unit.o"], cwd=tmp_path, check=True)
