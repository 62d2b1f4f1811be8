# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A function in front of another that notes each access and changes what a test wants changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ihsm.bus.function import PciFunction
from ihsm_abi import doorbells
from ihsm_abi.admin import ADMIN_SQE, AdminOpcode
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Aqa, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID
from support.pass_through import PassThrough

UNKNOWN_OPCODE: Final = 0x7F
"""No admin command has it: the device answers InvalidCommandOpCode."""


@dataclass(frozen=True)
class Access:
    """One access of the driver to a BAR."""

    op: str
    bar: int
    offset: int
    width: int
    value: int


class BentFunction(PassThrough):
    """Passes everything on to `inner`, but for what the attributes say."""

    def __init__(self, inner: PciFunction) -> None:
        super().__init__(inner)
        self.accesses: list[Access] = []
        self.admin: list[Any] = []
        """Admin commands, as ADMIN_SQE, in the order of their doorbells."""
        self.silent: set[int] = set()
        """Queues whose SQ doorbell the device does not get to know: their commands are never answered."""
        self.unheard: Counter[int] = Counter()
        """How many doorbells of each queue were kept from the device; a command has its tag before its doorbell."""
        self.reads: dict[int, Callable[[int], int]] = {}
        """By offset in BAR0: what becomes of a value that was read."""
        self.refused: set[AdminOpcode] = set()
        """Admin commands that the device takes for something unknown."""
        self.unanswered: set[AdminOpcode] = set()
        """Admin commands whose doorbell does not reach the device; nor do those behind them, until the next enable."""
        self.after_write: Callable[[Access], None] | None = None
        self._is_closed = False
        self._admin_is_silent = False
        self._asq = 0
        self._admin_slots = 0

    def take(self) -> list[Access]:
        """The accesses since the last call."""
        accesses, self.accesses = self.accesses, []
        return accesses

    def read_bar(self, bar: int, offset: int, width: int) -> int:
        value = self.inner.read_bar(bar, offset, width)
        if bar == Bar.REGISTERS and offset in self.reads:
            value = self.reads[offset](value)
        self.accesses.append(Access("read", bar, offset, width, value))
        return value

    def write_bar(self, bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        access = Access("write", bar, offset, width, value)
        self.accesses.append(access)
        if bar == Bar.REGISTERS:
            self._register_written(offset, value)
        if bar != Bar.DOORBELLS or self._is_closed or self._reaches(offset, value):
            self.inner.write_bar(bar, offset, width, value, posted=posted)
        if self.after_write:
            self.after_write(access)

    def _register_written(self, offset: int, value: int) -> None:
        if offset == Register.ASQ:
            self._asq, self._admin_is_silent = value, False
        elif offset == Register.AQA:
            self._admin_slots = Aqa(value).asqs + 1

    def _reaches(self, offset: int, value: int) -> bool:
        doorbell = doorbells.decode(offset)
        assert doorbell is not None
        if doorbell.is_cq_head:
            return True
        if doorbell.queue_id != ADMIN_QUEUE_ID:
            reaches = doorbell.queue_id not in self.silent
            self.unheard[doorbell.queue_id] += not reaches
            return reaches
        slot = (value - 1) % self._admin_slots
        entry = self.memory(self._asq + slot * ADMIN_SQE.itemsize, ADMIN_SQE)
        self.admin.append(entry.copy())
        opcode = int(entry["opc"])
        if opcode in self.unanswered:
            self._admin_is_silent = True
        if opcode in self.refused:
            entry["opc"] = UNKNOWN_OPCODE
        return not self._admin_is_silent

    def memory(self, address: int, layout: np.dtype[Any]) -> Any:
        """A structure in the driver's DMA memory, to be looked at and changed."""
        return np.ndarray((), layout, self.place(address, layout.itemsize))

    def close(self) -> None:
        self._is_closed = True
        super().close()
