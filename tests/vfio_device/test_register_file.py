# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The rule of each register of BAR0, byte for byte, against a plain model (spec 01 §2, §14.1)."""

from __future__ import annotations

from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_abi.registers import NSSR_MAGIC, Access, Register
from ihsm_device.register_file import RegisterFile

WRITABLE: Final = {
    Register.CC: 0xFFFF_FFFF,
    Register.AQA: 0x0FFF_0FFF,
    Register.ASQ: 0xFFFF_FFFF_FFFF_F000,
    Register.ACQ: 0xFFFF_FFFF_FFFF_F000,
}
"""The registers that keep what is written, and the bits that they have."""
BYTES: Final = 0x38
"""Where the last register ends."""


def image(file: RegisterFile) -> bytes:
    return file.read(0, BYTES)


def keep(before: bytes, offset: int, data: bytes) -> bytes:
    """What memory with the writable bits alone holds after a write."""
    mask = bytearray(BYTES)
    for register, bits in WRITABLE.items():
        width = 8 if bits >> 32 else 4
        mask[register : register + width] = bits.to_bytes(width, "little")
    after = bytearray(before)
    for index, value in enumerate(data, offset):
        if index < BYTES:
            after[index] = before[index] & ~mask[index] | value & mask[index]
    return bytes(after)


@settings(deadline=None)
@given(writes=st.lists(st.tuples(st.integers(0, 0x40), st.binary(min_size=1, max_size=64)), max_size=8))
def test_writes_change_the_writable_bits_alone(writes: list[tuple[int, bytes]]) -> None:
    file = RegisterFile()
    expected = image(file)
    for offset, data in writes:
        assert {register for register, _ in file.write(offset, data)} <= {*WRITABLE, Register.NSSR}
        expected = keep(expected, offset, data)
        assert image(file) == expected
        assert file.read(offset, len(data)) == expected[offset : offset + len(data)].ljust(len(data), b"\0")
    file.reset()
    assert image(file) == image(RegisterFile())


def test_registers_do_not_overlap() -> None:
    end = 0
    for register in Register:
        assert register >= end
        end = register + register.width
    assert end == BYTES


def test_a_command_is_given_by_a_whole_write() -> None:
    magic = NSSR_MAGIC.to_bytes(4, "little")
    file = RegisterFile()
    assert Register.NSSR.access is Access.COMMAND
    assert list(file.write(Register.NSSR, magic)) == [(Register.NSSR, NSSR_MAGIC)]
    halves = [(Register.NSSR, magic[:2]), (Register.NSSR + 2, magic[2:])]
    assert [value for offset, half in halves for _, value in file.write(offset, half)] == [
        NSSR_MAGIC & 0xFFFF,
        NSSR_MAGIC & 0xFFFF_0000,
    ]


def test_what_a_register_sets_off_comes_before_the_change_of_those_above() -> None:
    file = RegisterFile()
    seen = [(register, file[Register.AQA]) for register, _ in file.write(Register.NSSR, bytes(4) + b"\xff" * 4)]
    assert seen == [(Register.NSSR, 0), (Register.AQA, 0x0FFF_0FFF)]
