# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory at the addresses of a recording: what its rings, entries, requests and lists name is there again."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ihsm.errors import ReplayError
from ihsm.trace.commands import admin_command, form_of
from ihsm.trace.jsonl import Fetched, Place
from ihsm.trace.records import Entry, Record, RegisterWrite
from ihsm.trace.rules.memory import named_by
from ihsm_abi.admin import ADMIN_CQE, ADMIN_SQE, AdminOpcode
from ihsm_abi.aes_queue import SGL_DESCRIPTOR
from ihsm_abi.pci import PAGE_BYTES, Bar
from ihsm_abi.registers import Aqa, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID

MAX_GAP_BYTES: Final = 1 << 28
"""Stretches so near each other are one mapping; what lies between costs nothing, for nobody touches it."""
MAX_STRETCHES: Final = 256
MAX_ADDRESS: Final = 1 << 52
MAX_BYTES: Final = 1 << 36

MapDma = Callable[[int, int, int, int], None]
"""Maps a file (descriptor, offset) at an I/O address (address, size)."""


def named_memory(records: Iterable[Record]) -> list[tuple[int, int]]:
    """Address and size of everything in memory that a recording tells of."""
    found: list[tuple[int, int]] = []
    aqa = Aqa(0)
    for record in records:
        match record:
            case RegisterWrite(region=Bar.REGISTERS, offset=Register.AQA):
                aqa = Aqa(record.value)
            case RegisterWrite(region=Bar.REGISTERS, offset=Register.ASQ):
                found.append((record.value, (aqa.asqs + 1) * ADMIN_SQE.itemsize))
            case RegisterWrite(region=Bar.REGISTERS, offset=Register.ACQ):
                found.append((record.value, (aqa.acqs + 1) * ADMIN_CQE.itemsize))
            case Entry():
                found += [(extent.iova, extent.size) for extent in named_by(record.queue, record.data)]
                found += _rings(record)
            case Fetched():
                found.append((record.address, max(len(record.data), 1)))
                if record.place in (Place.SOURCE_LIST, Place.DESTINATION_LIST):
                    found += _listed(record.data)
    return found


def _rings(entry: Entry) -> list[tuple[int, int]]:
    command = admin_command(entry.data) if entry.queue == ADMIN_QUEUE_ID else None
    if command is None or command.opcode not in (AdminOpcode.CREATE_CQ, AdminOpcode.CREATE_SQ):
        return []
    form = form_of(command.queue.id)
    layout = form.cqe if command.opcode == AdminOpcode.CREATE_CQ else form.sqe
    return [(command.prp1, (command.queue.size + 1) * int(layout.itemsize))]


def _listed(segment: bytes) -> list[tuple[int, int]]:
    whole = len(segment) // SGL_DESCRIPTOR.itemsize * SGL_DESCRIPTOR.itemsize
    descriptors = np.frombuffer(segment[:whole], SGL_DESCRIPTOR)
    return [(int(one["addr"]), int(one["len"])) for one in descriptors if one["len"]]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """A piece of the memory, and where it is in the file."""

    iova: int
    size: int
    offset: int


class GuestMemory:
    """One sparse file with all of it; what is named by mistake is not there, as it was not for the device."""

    def __init__(self, extents: Iterable[tuple[int, int]]) -> None:
        """Make room for stretches, each an address and a size in bytes.

        Raises:
            ReplayError: they lie too far from each other.
        """
        self._stretches = _merged(extents)
        self.size = sum(stretch.size for stretch in self._stretches)
        if len(self._stretches) > MAX_STRETCHES or self.size > MAX_BYTES:
            raise ReplayError(f"the recording's memory is {len(self._stretches)} stretches with {self.size} bytes")
        self._descriptor = os.memfd_create("replay")
        try:
            os.truncate(self._descriptor, max(self.size, PAGE_BYTES))
            self._memory = mmap.mmap(self._descriptor, max(self.size, PAGE_BYTES))
        except OSError as error:
            os.close(self._descriptor)
            raise ReplayError(f"{self.size} bytes for the recording's memory: {error.strerror}") from None
        self._bytes = np.frombuffer(self._memory, np.uint8)

    def map(self, map_dma: MapDma) -> None:
        """Let a device reach it."""
        for stretch in self._stretches:
            map_dma(self._descriptor, stretch.offset, stretch.iova, stretch.size)

    def view(self, address: int, size: int) -> NDArray[np.uint8] | None:
        """Bytes at an address; None if they are not all there."""
        for stretch in self._stretches:
            start = address - stretch.iova
            if start >= 0 and start + size <= stretch.size:
                return self._bytes[stretch.offset + start : stretch.offset + start + size]
        return None

    def store(self, address: int, data: bytes) -> None:
        """Write where it is there."""
        view = self.view(address, len(data))
        if view is not None:
            view[:] = np.frombuffer(data, np.uint8)

    def entry(self, address: int, layout: np.dtype[Any]) -> Any:
        """A structure that the device writes, as it is whenever it is looked at.

        Raises:
            ReplayError: it is not there.
        """
        view = self.view(address, layout.itemsize)
        if view is None:
            raise ReplayError(f"{layout.itemsize} bytes at {address:#x} lie in no ring of the recording")
        return view.view(layout)[0]

    def close(self) -> None:
        """Let go of the file; the mapping goes with its last view. Harmless the second time."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _merged(extents: Iterable[tuple[int, int]]) -> list[_Stretch]:
    """Whole pages, in the order of their addresses, near ones joined."""
    pages = sorted(
        (address & -PAGE_BYTES, -(-(address + size) // PAGE_BYTES) * PAGE_BYTES)
        for address, size in extents
        if address + size <= MAX_ADDRESS
    )
    joined: list[list[int]] = []
    for begin, end in pages:
        if joined and begin - joined[-1][1] <= MAX_GAP_BYTES:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([begin, end])
    found, offset = [], 0
    for begin, end in joined:
        found.append(_Stretch(begin, end - begin, offset))
        offset += end - begin
    return found
