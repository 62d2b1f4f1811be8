# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the kernel's VFIO and a vfio-user server have in common: a function as regions, interrupts and mapped memory."""

from __future__ import annotations

import contextlib
import mmap
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Final

from ihsm import forks
from ihsm.arguments import checked, integer
from ihsm.bus.arena import MAX_ARENA_BYTES, DmaArena
from ihsm.bus.function import PciFunction, check_access, check_bar, octets_of
from ihsm.bus.unsharing import unshare
from ihsm.bus.vfio_abi import Region, RegionInfo
from ihsm.errors import AccessError, ArenaRequestError, ArgumentTypeError, ConnectionLostError, ForkedError
from ihsm_abi.pci import PAGE_BYTES

IOVA_BASE: Final = 0x1_0000_0000
"""First I/O address given out: above the 32-bit window with its reserved ranges, so that a device which truncates
addresses shows itself."""
MAX_CONFIG_BYTES: Final = 4096
MAX_DESCRIPTOR: Final = (1 << 31) - 1
BARS: Final = range(Region.BAR0, Region.BAR5 + 1)


class VfioFunction(PciFunction):
    """A function whose config space and BARs are regions that are read, written or mapped."""

    def __init__(self, uri: str) -> None:
        """Nothing is known of the device yet: call `_learn_regions` once it can be asked, and set `_vectors`."""
        self.uri = uri
        self._lock = threading.Lock()
        self._regions: dict[int, RegionInfo] = {}
        self._vectors = 0
        self._next_iova = IOVA_BASE
        self._arenas: list[DmaArena] = []
        self._mappings: dict[int, mmap.mmap | None] = {}
        self._forked = False
        forks.watch(self)

    def forked(self) -> None:
        """In a child of fork(): the function and its mappings are the parent's."""
        self._lock = threading.Lock()
        self._forked = True
        self._arenas = []
        mappings, self._mappings = list(self._mappings.values()), {}
        try:
            for mapping in mappings:
                if mapping is not None:
                    unshare(mapping)
        finally:
            self._let_go()

    @abstractmethod
    def _let_go(self) -> None:
        """Close this process's descriptors, without a word to the device or the kernel's VFIO."""

    def _require_ours(self, operation: str) -> None:
        if self._forked:
            raise ForkedError(f"{self.uri}: {operation}")

    def _learn_regions(self) -> None:
        self._regions = {region: self._region_info(region) for region in (*BARS, Region.CONFIG)}

    @abstractmethod
    def _region_info(self, region: int) -> RegionInfo:
        """What the device says of a region."""

    @abstractmethod
    def _read(self, region: int, offset: int, count: int) -> bytes:
        """Bytes of a region."""

    @abstractmethod
    def _write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """Write bytes of a region; a posted write may return before the device has seen it."""

    @abstractmethod
    def _map(self, info: RegionInfo) -> mmap.mmap:
        """Map a whole region, which the device offers."""

    @abstractmethod
    def _map_memory(self, size_bytes: int) -> tuple[mmap.mmap, int, Callable[[], None]]:
        """Make `size_bytes` bytes of memory that the device reaches: the memory, its I/O address, what ends that."""

    @abstractmethod
    def _signal(self, events: Sequence[int | None]) -> None:
        """Pass the eventfds of the first vectors while none is enabled."""

    @property
    def config_bytes(self) -> int:
        """Size of config space."""
        return self._regions[Region.CONFIG].size

    @checked
    def read_config(self, offset: int, size_bytes: int) -> bytes:
        """Bytes of config space."""
        integer("read_config", "offset", offset, 0, MAX_CONFIG_BYTES)
        integer("read_config", "size_bytes", size_bytes, 0, MAX_CONFIG_BYTES)
        return self._read(Region.CONFIG, offset, size_bytes)

    @checked
    def write_config(self, offset: int, data: bytes) -> None:
        """Write bytes of config space; a kernel in between keeps some fields to itself."""
        integer("write_config", "offset", offset, 0, MAX_CONFIG_BYTES)
        self._write(Region.CONFIG, offset, data)

    def bar_bytes(self, bar: int) -> int:
        """Size of BAR 0-5."""
        check_bar(bar)
        return self._regions[bar].size

    def read_bar(self, bar: int, offset: int, width: int) -> int:
        """One read of the region."""
        check_access(self._bar(bar).size, offset, width, f"BAR{bar}")
        return int.from_bytes(self._read(bar, offset, width), "little")

    def write_bar(self, bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        """One write of the region."""
        check_access(self._bar(bar).size, offset, width, f"BAR{bar}")
        self._write(bar, offset, octets_of(value, width, f"BAR{bar}"), posted=posted)

    def _bar(self, bar: int) -> RegionInfo:
        """What is known of a BAR; errors as `check_bar`."""
        try:
            return self._regions[bar]
        except (KeyError, TypeError):
            check_bar(bar)
            raise ConnectionLostError(f"{self.uri}: nothing is known of BAR{bar}: the function is closed") from None

    def map_bar(self, bar: int) -> mmap.mmap | None:
        """Mapping of a BAR that is offered as one whole area."""
        check_bar(bar)
        with self._lock:
            if bar not in self._mappings:
                self._require_ours(f"mapping of BAR{bar}")
                info = self._regions[bar]
                whole = any(area.offset == 0 and area.size == info.size for area in info.areas)
                self._mappings[bar] = self._map(info) if whole else None
            return self._mappings[bar]

    @checked
    def allocate_arena(self, size_bytes: int) -> DmaArena:
        """Shared memory of whole pages, mapped for the device until the arena is closed."""
        size_bytes = -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
        if not 0 < size_bytes <= MAX_ARENA_BYTES:
            problem = f"DMA arena of {size_bytes} bytes, 1 to {MAX_ARENA_BYTES} possible"
            raise ArenaRequestError("allocate_arena", "size_bytes", problem)
        self._require_ours("DMA arena")
        memory, iova, unmap = self._map_memory(size_bytes)
        arena = DmaArena(memory, iova, lambda: self._drop_arena(arena, unmap))
        with self._lock:
            self._arenas.append(arena)
        return arena

    def _drop_arena(self, arena: DmaArena, unmap: Callable[[], None]) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._arenas.remove(arena)
        unmap()

    @property
    def vectors(self) -> int:
        """Number of MSI-X vectors."""
        return self._vectors

    def enable_interrupts(self, events: Sequence[int | None]) -> None:
        """Pass the eventfds, instead of those passed before."""
        if not isinstance(events, Sequence):
            raise ArgumentTypeError("enable_interrupts", "events", f"{type(events).__name__}, must be a sequence")
        if len(events) > self._vectors:
            raise AccessError(f"enable_interrupts: events: {len(events)} vectors, the function has {self._vectors}")
        for event in events:
            if event is not None:
                integer("enable_interrupts", "events", event, 0, MAX_DESCRIPTOR)
        self._require_ours("interrupts")
        self.disable_interrupts()
        self._signal(events)

    def _close_memory(self) -> None:
        """Close arenas and mappings: part of `close`."""
        with self._lock:
            arenas, self._arenas = self._arenas, []
            mappings, self._mappings = list(self._mappings.values()), {}
        for arena in arenas:
            arena.close()
        for mapping in mappings:
            if mapping is not None:
                with contextlib.suppress(BufferError):  # a doorbell view is still held; it goes with its holder
                    mapping.close()
