# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which DMA memory a device's driver has, and how it misuses it (Linux: kernel/dma/debug.c)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ihsm_kmod.kernel.report import ReportKind, warn, where
from ihsm_kmod.kernel.task import current_or_none

POISON_FREE: Final = 0x6B
"""What freed memory is filled with (linux/poison.h), so that who looks at it through an old array sees it."""


@dataclass(eq=False)
class DmaEntry:
    """One allocation or mapping that a driver has to give back."""

    kind: str
    """As Linux names it: coherent, pool, scatter-gather."""
    address: int
    size: int
    allocated_at: str
    freed_at: str = ""

    def __str__(self) -> str:
        """For reports."""
        freed = f", freed at {self.freed_at}" if self.freed_at else ""
        return f"{self.kind}, {self.size} bytes at {self.address:#x}, allocated at {self.allocated_at}{freed}"


class DmaDebug:
    """What one device's driver has."""

    def __init__(self) -> None:
        """Nothing."""
        self._lock = threading.Lock()
        self._entries: set[DmaEntry] = set()
        self._left: set[DmaEntry] = set()
        """What a driver had that let go of the device; a call that is under way still may give it back."""

    def add(self, kind: str, address: int, size: int) -> DmaEntry:
        """Note what the driver's line that runs now has got."""
        entry = DmaEntry(kind, address, size, where())
        with self._lock:
            self._entries.add(entry)
        return entry

    def remove(self, entry: DmaEntry) -> bool:
        """Note that it was given back; False, and a report, if it is not the driver's (any more)."""
        with self._lock:
            is_ours = entry in self._entries or entry in self._left
            self._entries.discard(entry)
            self._left.discard(entry)
        if not is_ours:
            warn(ReportKind.DMA_DOUBLE_FREE, str(entry))
            return False
        entry.freed_at = where()
        return True

    def end(self) -> None:
        """The device is gone, and the memory with it."""
        with self._lock:
            self._entries, self._left = set(), set()

    def report_leaks(self) -> None:
        """The driver has let go of the device, and not given everything back. One report for each line."""
        with self._lock:
            entries, self._entries = self._entries, set()
            self._left |= entries
        lines: dict[tuple[str, str], list[DmaEntry]] = {}
        for entry in sorted(entries, key=lambda one: one.address):
            lines.setdefault((entry.allocated_at, entry.kind), []).append(entry)
        for (allocated_at, _), leaked in lines.items():
            warn(ReportKind.DMA_LEAK, f"count {len(leaked)}, one of them: {leaked[0]}", allocated_at)


class DmaMemory:
    """Memory that the CPU and the device reach (Linux: the pair of a pointer and a dma_addr_t)."""

    def __init__(self, entry: DmaEntry, view: NDArray[np.uint8], release: Callable[[int], None]) -> None:
        """Made by `dma_alloc_coherent` and `dma_pool_alloc`; `release` takes it back, told by its address."""
        self.entry = entry
        self._view = view
        self._release = release
        self._poison: int | None = None
        """What it was filled with when it was freed."""

    @property
    def dma_handle(self) -> int:
        """Where the device finds it."""
        return self.entry.address

    @property
    def size(self) -> int:
        """In bytes."""
        return self._view.size

    @property
    def view(self) -> NDArray[np.uint8]:
        """Its bytes. After the memory was freed: a report, and bytes that are nobody's."""
        if self.entry.freed_at and current_or_none() is not None:
            warn(ReportKind.DMA_USE_AFTER_UNMAP, str(self.entry))
        return self._view if self._poison is None else np.full(self._view.size, self._poison, np.uint8)

    def free(self, poison: int = POISON_FREE) -> None:
        """Let go of it, spoilt for whoever still looks at it through an array or an address."""
        self._view[:] = poison
        self._poison = poison
        self._release(self.entry.address)
