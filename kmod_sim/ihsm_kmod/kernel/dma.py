# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that the device reaches (linux/dma-mapping.h).

*Coherent* memory is shared by both for long: rings. A *streaming* mapping lends a program's pages to the device for one
transfer. The device reaches no memory but that of arenas, so streaming copies, as Linux does on a machine whose device
cannot address all memory (swiotlb).
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from ihsm.bus.arena import DmaArena, DmaBuffer
from ihsm.bus.function import PciFunction
from ihsm.errors import ArenaError, BusError
from ihsm_kmod.kernel.dma_debug import DmaDebug, DmaEntry, DmaMemory
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import PAGE_SIZE, ScatterList
from ihsm_kmod.kernel.printk import dev_err
from ihsm_kmod.kernel.report import ReportKind, might_sleep, warn

if TYPE_CHECKING:
    from ihsm_kmod.kernel.pci import PciDev

ARENA_BYTES: Final = 4 << 20
"""Memory that is mapped for a device at a time: each arena costs it a region of its own."""
DEFAULT_MASK_BITS: Final = 32
"""Addresses that Linux believes a PCI device capable of, until its driver says more."""
PAGES_PER_PIECE: Final = 2048
"""Pages of a streaming mapping that are found in one stretch."""


class DmaDirection(IntEnum):
    """Who writes in a streaming mapping (linux/dma-direction.h)."""

    BIDIRECTIONAL = 0
    TO_DEVICE = 1
    FROM_DEVICE = 2


DMA_BIDIRECTIONAL: Final = DmaDirection.BIDIRECTIONAL
DMA_TO_DEVICE: Final = DmaDirection.TO_DEVICE
DMA_FROM_DEVICE: Final = DmaDirection.FROM_DEVICE


@dataclass
class Stretch:
    """Pages at consecutive addresses, for the CPU and for the device."""

    address: int
    view: NDArray[np.uint8]
    release: Callable[[], None]


class DmaDevice:
    """The memory that one function reaches."""

    def __init__(self, function: PciFunction, *, strict: bool) -> None:
        """With `strict` each allocation is mapped on its own: once it is freed, the device does not reach it."""
        self.strict = strict
        self.mask_bits = DEFAULT_MASK_BITS
        self.debug = DmaDebug()
        self._function = function
        self._lock = threading.Lock()
        self._arenas: list[DmaArena] = []

    def take(self, size: int) -> Stretch:
        """Zeroed pages of at least `size` bytes.

        Raises:
            Errno: ENOMEM, there are none, or the driver has not said that the device can address them.
        """
        try:
            buffer, release = self._take_arena(size) if self.strict else self._take_shared(size)
        except (ArenaError, BusError) as error:
            raise Errno(errno.ENOMEM, str(error)) from None
        if (buffer.iova + buffer.size_bytes - 1) >> self.mask_bits:
            release()
            text = f"overflow {buffer.iova:#x}+{buffer.size_bytes} of a DMA mask of {self.mask_bits} bits"
            raise Errno(errno.ENOMEM, text)
        return Stretch(buffer.iova, buffer.view, release)

    def _take_arena(self, size: int) -> tuple[DmaBuffer, Callable[[], None]]:
        arena = self._function.allocate_arena(size)

        def release() -> None:
            with contextlib.suppress(BusError):  # the device is gone, and reaches nothing
                arena.close()

        return arena.allocate_pages(size), release

    def _take_shared(self, size: int) -> tuple[DmaBuffer, Callable[[], None]]:
        with self._lock:
            for arena in self._arenas:
                with contextlib.suppress(ArenaError):
                    buffer = arena.allocate_pages(size)
                    return buffer, buffer.release
            arena = self._function.allocate_arena(max(size, ARENA_BYTES))
            self._arenas.append(arena)
            buffer = arena.allocate_pages(size)
            return buffer, buffer.release

    def close(self) -> None:
        """The function is not this kernel's any more, and reaches none of its memory."""
        with self._lock:
            arenas, self._arenas = self._arenas, []
        for arena in arenas:
            with contextlib.suppress(BusError):
                arena.close()


def dma_set_mask_and_coherent(pdev: PciDev, bits: int) -> None:
    """Say how many address bits the device has; Linux takes DMA_BIT_MASK(bits).

    Raises:
        Errno: EIO, no memory has such addresses.
    """
    if not DEFAULT_MASK_BITS <= bits <= 64:
        raise Errno(errno.EIO, f"DMA mask of {bits} bits")
    pdev.dma.mask_bits = bits


def dma_alloc_coherent(pdev: PciDev, size: int) -> DmaMemory:
    """Zeroed memory of `size` bytes that begins a page.

    Raises:
        Errno: ENOMEM.
    """
    might_sleep()
    try:
        stretch = pdev.dma.take(size)
    except Errno as error:
        dev_err(pdev, str(error))
        raise
    return DmaMemory(pdev.dma.debug.add("coherent", stretch.address, size), stretch.view[:size], stretch.release)


def dma_free_coherent(pdev: PciDev, memory: DmaMemory) -> None:
    """Give memory back; the device must not use it any more."""
    if pdev.dma.debug.remove(memory.entry):
        memory.free()


@dataclass(frozen=True)
class _Mapping:
    """A streaming mapping, while it lasts."""

    entry: DmaEntry
    direction: DmaDirection
    pages: list[NDArray[np.uint8]]
    """Of each entry of the list, the page that the device sees in place of the program's."""
    stretches: list[Stretch]


def dma_map_sg(pdev: PciDev, sg: ScatterList, direction: DmaDirection) -> int:
    """Lend the pages of a list to the device; each entry gets its `dma_address`.

    Every page keeps the offset that the data have in it, and no two are neighbours for the device: whoever takes a list
    of pages for one stretch is found out.

    Returns:
        The number of entries; 0 if there is no memory for them.
    """
    stretches: list[Stretch] = []
    pages: list[NDArray[np.uint8]] = []
    try:
        for start in range(0, len(sg), PAGES_PER_PIECE):
            piece = sg[start : start + PAGES_PER_PIECE]
            # Every second page stays empty.
            stretch = pdev.dma.take(2 * PAGE_SIZE * len(piece))
            stretches.append(stretch)
            for at, entry in zip(range(0, stretch.view.size, 2 * PAGE_SIZE), piece, strict=True):
                pages.append(stretch.view[at : at + PAGE_SIZE])
                entry.dma_address = stretch.address + at + entry.offset
                entry.dma_length = entry.length
    except Errno as error:
        dev_err(pdev, str(error))
        for stretch in stretches:
            stretch.release()
        return 0
    for entry, page in zip(sg, pages, strict=True):
        # Also for a device that only writes: what it leaves alone must still be there afterwards (as in swiotlb).
        data = entry.page.mm.read(entry.page.address + entry.offset, entry.length)
        page[entry.offset : entry.offset + len(data)] = np.frombuffer(data, np.uint8)
    if sg:
        size = sum(entry.length for entry in sg)
        noted = pdev.dma.debug.add("scatter-gather", sg[0].dma_address, size)
        sg.mapping = _Mapping(noted, direction, pages, stretches)
    return len(sg)


def dma_unmap_sg(pdev: PciDev, sg: ScatterList, direction: DmaDirection) -> None:
    """Take the pages of a list back from the device, with what it wrote to them. `direction` is that of the mapping."""
    mapping = sg.mapping
    if not isinstance(mapping, _Mapping):
        warn(ReportKind.DMA_DOUBLE_FREE, f"scatter-gather list of {len(sg)} entries that is not mapped")
        return
    if not pdev.dma.debug.remove(mapping.entry):
        return
    if direction is not mapping.direction:
        text = f"DMA-API: device driver frees DMA memory with different direction: {mapping.entry}"
        warn(ReportKind.WARN, f"{text}, mapped as {mapping.direction.name} and unmapped as {direction.name}")
    if mapping.direction is not DmaDirection.TO_DEVICE:
        for entry, page in zip(sg, mapping.pages, strict=True):
            data = page[entry.offset : entry.offset + entry.length].tobytes()
            # The program may have unmapped its buffer meanwhile: then nobody looks at these pages any more.
            entry.page.mm.write(entry.page.address + entry.offset, data)
    for stretch in mapping.stretches:
        stretch.release()
    sg.mapping = None
