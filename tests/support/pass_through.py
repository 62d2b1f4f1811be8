# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A function in front of another, for those that look at what passes, or change it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ihsm.bus.arena import DmaArena
from ihsm.bus.function import PciFunction


class PassThrough(PciFunction):
    """Passes everything on to `inner`, and keeps what is needed to look into the driver's DMA memory."""

    def __init__(self, inner: PciFunction) -> None:
        self.inner = inner
        self.uri = inner.uri
        self._lock = threading.Lock()
        self._arenas: list[DmaArena] = []

    def place(self, iova: int, size: int) -> memoryview:
        """The driver's memory at a DMA address, as it is now."""
        for arena in tuple(self._arenas):
            if arena.size_bytes and arena.iova <= iova and iova + size <= arena.iova + arena.size_bytes:
                start = iova - arena.iova
                return arena.array[start : start + size].data
        raise AssertionError(f"{size} bytes at {iova:#x} are not mapped")

    def allocate_arena(self, size_bytes: int) -> DmaArena:
        arena = self.inner.allocate_arena(size_bytes)
        with self._lock:
            self._arenas = [known for known in self._arenas if known.size_bytes] + [arena]
        return arena

    def read_bar(self, bar: int, offset: int, width: int) -> int:
        return self.inner.read_bar(bar, offset, width)

    def write_bar(self, bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        self.inner.write_bar(bar, offset, width, value, posted=posted)

    def read_config(self, offset: int, size_bytes: int) -> bytes:
        return self.inner.read_config(offset, size_bytes)

    def write_config(self, offset: int, data: bytes) -> None:
        self.inner.write_config(offset, data)

    @property
    def config_bytes(self) -> int:
        return self.inner.config_bytes

    def bar_bytes(self, bar: int) -> int:
        return self.inner.bar_bytes(bar)

    def map_bar(self, bar: int) -> None:
        return None  # accesses through a mapping would not be seen

    def write_event(self, bar: int) -> None:
        return None

    @property
    def vectors(self) -> int:
        return self.inner.vectors

    def enable_interrupts(self, events: Sequence[int | None]) -> None:
        self.inner.enable_interrupts(events)

    def disable_interrupts(self) -> None:
        self.inner.disable_interrupts()

    def reset(self) -> None:
        self.inner.reset()

    def close(self) -> None:
        self.inner.close()
