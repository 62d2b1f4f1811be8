# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that the device reaches (linux/dma-mapping.h).

*Coherent* memory is shared by both for long: rings. A *streaming* mapping lends a program's pages to the device for one
transfer. The device reaches no memory but that of arenas, so streaming copies, as Linux does on a machine whose device
cannot address all memory (swiotlb).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ihsm_kmod.kernel.dma_debug import DmaEntry, DmaMemory
from ihsm_kmod.kernel.dma_device import DEFAULT_MASK_BITS, Stretch
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import PAGE_SIZE, ScatterList
from ihsm_kmod.kernel.pci_dev import PciDev
from ihsm_kmod.kernel.printk import dev_err
from ihsm_kmod.kernel.report import ReportKind, might_sleep, warn

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
    entry = pdev.dma.debug.add("coherent", stretch.address, size)
    return DmaMemory(entry, stretch.view[:size], lambda _: stretch.release())


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
