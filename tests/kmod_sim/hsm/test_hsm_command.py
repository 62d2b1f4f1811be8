# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""HSM queue entries (spec 02 B.1, B.4, H.1, H.2), but for the command id, which the queue puts in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from ihsm_abi.entries import RecordCodec
from ihsm_abi.hsm_queue import HSM_SQE, ControlKind, SessionControl
from ihsm_abi.uapi import GENERIC_IOCTL
from ihsm_kmod.hsm.hsm_command import command_entry

H1 = """00000500 a2010000 00604523 01000000 00000000 00000000 00200000 00004623
        01000000 00104623 01000000 01000000 00000000 00000000 00000000 00000000"""
H2 = """00000600 58000000 00604523 01000000 00000000 00000000 00200000 00004623
        01000000 00104623 01000000 07000000 03000000 00000000 00000000 00000000"""
H2_IOCTL = """70000000 adde1dcd 64000000 00000000 00000000 00000000 00000000 00000000
              58000000 00000000 00100000 007f0000 00200000 00000000 00300000 007f0000
              07000300 00000000 00000000 00000000 00000000 00000000 00000000 00000000
              00000000 00000000 00000000 00000000"""
FILE_SESSION = 3


@dataclass(frozen=True)
class At:
    """A page, as far as an entry has it."""

    dma_handle: int


@dataclass
class PagesAt:
    """Bounce pages at given addresses."""

    source: list[At] = field(default_factory=lambda: [At(0x1_2345_6000)])
    destination: list[At] = field(default_factory=lambda: [At(0x1_2346_0000), At(0x1_2346_1000)])


def entry(command: np.ndarray[tuple[int], np.dtype[np.void]], pages: PagesAt | None = None) -> bytes:
    asked = RecordCodec(GENERIC_IOCTL).unpack(command.tobytes())
    made = command_entry(asked, pages or PagesAt(), FILE_SESSION)  # type: ignore[arg-type]
    return bytes(made)


def request(**fields: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    record = np.zeros(1, GENERIC_IOCTL)
    for name, value in fields.items():
        record[name] = value
    return record


def without_cid(text: str) -> bytes:
    raw = bytearray.fromhex(text)
    raw[2:4] = bytes(2)
    return bytes(raw)


def test_open_session_of_the_example() -> None:
    command = request(session_control_flags=ControlKind.OPEN, src_length=418, dst_length=8192)
    assert entry(command) == without_cid(H1)


def test_in_session_command_of_the_example() -> None:
    command = np.frombuffer(bytearray.fromhex(H2_IOCTL), GENERIC_IOCTL)
    assert entry(command) == without_cid(H2)


def test_pages_that_are_not_there_have_address_0() -> None:
    sqe = np.frombuffer(entry(request(), PagesAt([], [])), HSM_SQE)[0]
    assert [int(sqe[name]) for name in ("src_prp1", "src_prp2", "dst_prp1", "dst_prp2")] == [0, 0, 0, 0]
    two = PagesAt([At(0x1000), At(0x3000)], [At(0x5000)])
    sqe = np.frombuffer(entry(request(src_length=4097, dst_length=1), two), HSM_SQE)[0]
    assert [int(sqe[name]) for name in ("src_prp1", "src_prp2", "dst_prp1", "dst_prp2")] == [0x1000, 0x3000, 0x5000, 0]


@pytest.mark.parametrize(
    ("kind", "id_valid", "flags", "session_id"),
    [
        (ControlKind.NONE, 0, 0x00, 0),
        (ControlKind.NONE, 1, 0x00, 0),
        (ControlKind.OPEN, 0, 0x01, 9),
        (ControlKind.OPEN, 1, 0x05, 9),
        (ControlKind.CLOSE, 1, 0x06, FILE_SESSION),
        (ControlKind.IN_SESSION, 1, 0x07, FILE_SESSION),
    ],
)
def test_flags_and_session_id(kind: ControlKind, id_valid: int, flags: int, session_id: int) -> None:
    """The table of B.4; the reserved bits of the caller's flags are dropped."""
    asked = SessionControl.of(kind=kind, id_valid=id_valid) | 0xF8
    sqe = np.frombuffer(entry(request(session_control_flags=asked, session_id=9)), HSM_SQE)[0]
    assert (sqe["control"], sqe["session_id"]) == (flags, session_id)


def test_opcode_of_ten_bits_and_no_psdt() -> None:
    made = entry(request(opc=0xFFFF, psdt=3, cmdset=0))
    assert made[:4] == b"\xff\x03\x00\x00"
