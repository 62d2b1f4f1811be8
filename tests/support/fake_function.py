# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A PCI function in plain memory: whatever its config space, BARs, vectors and registers are is the test's to say."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ihsm.bus import DmaArena, PciFunction
from ihsm.errors import AccessError, ArenaFullError, ConnectionLostError
from ihsm_abi.pci import BAR_BYTES, CLASS_CODE, DEVICE_ID, MSIX_VECTORS, PAGE_BYTES, REVISION_ID, VENDOR_ID

CONFIG_BYTES: Final = 4096
EXTENDED_START: Final = 0x100
SRIOV_OFFSET: Final = 0x1F8
"""Where the real part has it (spec 01 §14.9); a blank capability before it leads there."""
SRIOV_ID: Final = 0x0010
VENDOR_SPECIFIC_ID: Final = 0x000B
SRIOV_CONTROL: Final = SRIOV_OFFSET + 0x08
SRIOV_TOTAL_VFS: Final = SRIOV_OFFSET + 0x0E
SRIOV_NUM_VFS: Final = SRIOV_OFFSET + 0x10
IOVA_BASE: Final = 0x1_0000_0000

OnRead = Callable[[int, int, int, int], int]
"""Called with bar, offset, width and what the memory has there; gives what is read."""
OnWrite = Callable[[int, int, int, int], None]
"""Called with bar, offset, width and value, after the memory has it."""


class FakeFunction(PciFunction):
    """A function whose BARs are memory, with a callback for each access.

    What it does as a device (`read_memory`, `write_memory`, `raise_interrupt`) may be called from any thread.
    """

    def __init__(
        self,
        *,
        vendor: int = VENDOR_ID,
        device: int = DEVICE_ID,
        bars: Mapping[int, int] | None = None,
        vectors: int = MSIX_VECTORS,
        total_vfs: int | None = None,
        num_vfs: int = 0,
        max_arenas: int = 1 << 30,
    ) -> None:
        """A function with three BARs of a page and, unless `total_vfs` is None, with an SR-IOV capability."""
        self.uri = "fake:"
        self.config = bytearray(CONFIG_BYTES)
        self.put_config(0x00, 2, vendor)
        self.put_config(0x02, 2, device)
        self.put_config(0x08, 4, CLASS_CODE << 8 | REVISION_ID)
        if total_vfs is not None:
            self.put_config(EXTENDED_START, 4, VENDOR_SPECIFIC_ID | 1 << 16 | SRIOV_OFFSET << 20)
            self.put_config(SRIOV_OFFSET, 4, SRIOV_ID | 1 << 16)
            self.put_config(SRIOV_TOTAL_VFS, 2, total_vfs)
            self.put_config(SRIOV_NUM_VFS, 2, num_vfs)
        self.bars = {bar: bytearray(size) for bar, size in (bars or {0: BAR_BYTES, 2: BAR_BYTES, 4: BAR_BYTES}).items()}
        self.on_read: OnRead | None = None
        self.on_write: OnWrite | None = None
        self.on_reset: Callable[[], None] | None = None
        self.max_arenas = max_arenas
        self.closed = False
        self.resets = 0
        self._vectors = vectors
        self._lock = threading.Lock()
        self._events: list[int | None] = []
        self._arenas: list[DmaArena] = []
        self._next_iova = IOVA_BASE

    # What a test does with it.

    def put_config(self, offset: int, size: int, value: int) -> None:
        """Set bytes of config space, whatever a driver may write there."""
        self.config[offset : offset + size] = value.to_bytes(size, "little")

    def get_config(self, offset: int, size: int) -> int:
        """Look at config space."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def put_register(self, offset: int, value: int, *, bar: int = 0, width: int = 4) -> None:
        """Set a register without a callback."""
        self.bars[bar][offset : offset + width] = value.to_bytes(width, "little")

    def get_register(self, offset: int, *, bar: int = 0, width: int = 4) -> int:
        """Look at a register without a callback."""
        return int.from_bytes(self.bars[bar][offset : offset + width], "little")

    @property
    def arenas(self) -> int:
        """How many the driver's side has."""
        with self._lock:
            return len(self._arenas)

    # What it does as a device.

    def read_memory(self, address: int, size: int) -> bytes | None:
        """DMA read; None where nothing is mapped."""
        place = self._find(address, size)
        return None if place is None else bytes(place)

    def write_memory(self, address: int, data: bytes) -> bool:
        """DMA write; False where nothing is mapped."""
        place = self._find(address, len(data))
        if place is not None:
            place[:] = data
        return place is not None

    def raise_interrupt(self, vector: int) -> bool:
        """Send the message of a vector; False if the driver's side has not enabled it."""
        with self._lock:
            event = self._events[vector] if vector < len(self._events) else None
            if event is not None:
                os.eventfd_write(event, 1)
            return event is not None

    def _find(self, address: int, size: int) -> memoryview | None:
        with self._lock:
            for arena in self._arenas:
                start = address - arena.iova
                if start >= 0 and start + size <= arena.size_bytes:
                    return memoryview(arena.array)[start : start + size]
        return None

    # What it is for the driver's side.

    def _check(self) -> None:
        if self.closed:
            raise ConnectionLostError(f"{self.uri}: closed")

    def read_config(self, offset: int, size_bytes: int) -> bytes:
        self._check()
        return bytes(self.config[offset : offset + size_bytes])

    def write_config(self, offset: int, data: bytes) -> None:
        self._check()
        self.config[offset : offset + len(data)] = data

    @property
    def config_bytes(self) -> int:
        return len(self.config)

    def bar_bytes(self, bar: int) -> int:
        return len(self.bars.get(bar, b""))

    def _bar(self, bar: int, offset: int, width: int) -> bytearray:
        self._check()
        memory = self.bars[bar]
        if not 0 <= offset <= len(memory) - width:
            raise AccessError(f"BAR{bar}: {width} bytes at {offset:#x} of {len(memory):#x}")
        return memory

    def read_bar(self, bar: int, offset: int, width: int) -> int:
        memory = self._bar(bar, offset, width)
        value = int.from_bytes(memory[offset : offset + width], "little")
        return value if self.on_read is None else self.on_read(bar, offset, width, value)

    def write_bar(self, bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        memory = self._bar(bar, offset, width)
        memory[offset : offset + width] = value.to_bytes(width, "little")
        if self.on_write is not None:
            self.on_write(bar, offset, width, value)

    def map_bar(self, bar: int) -> mmap.mmap | None:
        return None

    def write_event(self, bar: int) -> int | None:
        return None

    def allocate_arena(self, size_bytes: int) -> DmaArena:
        self._check()
        size_bytes = -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
        with self._lock:
            if len(self._arenas) >= self.max_arenas:
                raise ArenaFullError(f"{self.uri}: {self.max_arenas} arenas")
            iova, self._next_iova = self._next_iova, self._next_iova + size_bytes
            arena = DmaArena(mmap.mmap(-1, size_bytes), iova, lambda: self._drop(arena))
            self._arenas.append(arena)
        return arena

    def _drop(self, arena: DmaArena) -> None:
        with self._lock:
            self._arenas.remove(arena)

    @property
    def vectors(self) -> int:
        return self._vectors

    def enable_interrupts(self, events: Sequence[int | None]) -> None:
        self._check()
        if len(events) > self._vectors:
            raise AccessError(f"{self.uri}: {len(events)} of {self._vectors} vectors")
        with self._lock:
            self._events = list(events)

    def disable_interrupts(self) -> None:
        self._check()
        with self._lock:
            self._events = []

    def reset(self) -> None:
        self._check()
        self.resets += 1
        self.put_config(0x04, 2, 0)
        if self.on_reset is not None:
            self.on_reset()

    def close(self) -> None:
        self.closed = True
        with self._lock:
            arenas = list(self._arenas)
            self._events = []
        for arena in arenas:
            arena.close()
