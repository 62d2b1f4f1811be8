# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""BAR0's registers as bytes: any width and alignment, each register after its declared rule (spec 01 §2, §14.1)."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Final

from ihsm_abi.registers import Access, Register

_BYTES: Final = max(register + register.width for register in Register)


@functools.lru_cache(maxsize=64)
def registers_at(offset: int, size: int) -> frozenset[Register]:
    """Registers that `size` bytes from `offset` are of, at least in part."""
    return frozenset(
        register for register in Register if offset < register + register.width and register < offset + size
    )


class RegisterFile:
    """Values of all registers; those of read-only ones are changed by the device alone, with `set`."""

    def __init__(self) -> None:
        """Every register has its reset value."""
        self._image = bytearray(_BYTES)
        self.reset()

    def reset(self) -> None:
        """Every register gets its reset value."""
        for register in Register:
            self.set(register, register.reset)

    def __getitem__(self, register: Register) -> int:
        """Value of a register; 0 for one that takes commands."""
        return int.from_bytes(self._image[register : register + register.width], "little")

    def set(self, register: Register, value: int) -> None:
        """Change a register, whatever its rule for writes."""
        self._image[register : register + register.width] = value.to_bytes(register.width, "little")

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; what is no register reads 0."""
        return bytes(self._image[offset : offset + size]).ljust(size, b"\0")

    def write(self, offset: int, data: bytes) -> Iterator[tuple[Register, int]]:
        """Write bytes from `offset` on; yields each register that took some, lowest first, with its new value.

        The value of a command is what was written, 0 in the bytes that were not. The registers above the yielded one
        are still as they were: what it sets off comes before their change.
        """
        for register in Register:
            low, high = max(offset, register), min(offset + len(data), register + register.width)
            if low >= high or register.access is Access.READ_ONLY:
                continue
            merged = bytearray(self[register].to_bytes(register.width, "little"))
            merged[low - register : high - register] = data[low - offset : high - offset]
            value = int.from_bytes(merged, "little")
            if register.access is Access.READ_WRITE:
                value &= register.implemented
                self.set(register, value)
            yield register, value
