# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Pools of small blocks of coherent memory (linux/dmapool.h)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Final

from ihsm_kmod.kernel.dma_debug import DmaEntry, DmaMemory
from ihsm_kmod.kernel.dma_device import Stretch
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import PAGE_SIZE
from ihsm_kmod.kernel.pci_dev import PciDev
from ihsm_kmod.kernel.report import ReportKind, warn, where
from ihsm_kmod.kernel.task import current

POISON_FREED: Final = 0xA7
"""What a free block is filled with (linux/dmapool.c)."""
POISON_ALLOCATED: Final = 0xA9
"""What a block is filled with that was never used: it is not cleared, and this shows who believes it is."""


@dataclass
class _Chunk:
    """Pages that blocks are cut from."""

    stretch: Stretch
    free: list[int]
    """Addresses of its free blocks."""


class DmaPool:
    """Blocks of one size for one device."""

    def __init__(self, name: str, pdev: PciDev, size: int, alignment: int) -> None:
        """Made by `dma_pool_create`."""
        self.name = name
        self.pdev = pdev
        self.size = size
        self.step = -(-size // alignment) * alignment
        self.entry = pdev.dma.debug.add(f"pool {name}", 0, size)
        self.block_name = f"pool {name} block"
        self.chunks: list[_Chunk] = []
        self.used: dict[int, tuple[DmaMemory, _Chunk]] = {}
        """Blocks that the driver has, by address."""
        self.sched = current().kernel.sched

    def grow(self) -> _Chunk:
        """Room for more blocks; where late accesses are to fail, each block has pages of its own."""
        count = 1 if self.pdev.dma.strict else max(1, PAGE_SIZE // self.step)
        stretch = self.pdev.dma.take(count * self.step)
        stretch.view[:] = POISON_ALLOCATED
        chunk = _Chunk(stretch, [stretch.address + number * self.step for number in reversed(range(count))])
        self.chunks.append(chunk)
        return chunk

    def take_back(self, address: int) -> None:
        """A block is free again."""
        with self.sched.lock:
            _, chunk = self.used.pop(address)
            chunk.free.append(address)
            if self.pdev.dma.strict:
                self.chunks.remove(chunk)
                chunk.stretch.release()


def dma_pool_create(name: str, pdev: PciDev, size: int, alignment: int) -> DmaPool:
    """A pool of blocks of `size` bytes at multiples of `alignment`, a power of two up to a page.

    Raises:
        Errno: EINVAL, no such size or alignment (in Linux: NULL).
    """
    if size <= 0 or not 0 < alignment <= PAGE_SIZE or alignment & (alignment - 1):
        raise Errno(errno.EINVAL, f"DMA pool {name}: blocks of {size} bytes at multiples of {alignment}")
    return DmaPool(name, pdev, size, alignment)


def dma_pool_alloc(pool: DmaPool) -> DmaMemory:
    """A block, with anything in it. Allowed in atomic context (GFP_ATOMIC).

    Raises:
        Errno: ENOMEM.
    """
    with pool.sched.lock:
        for chunk in pool.chunks:
            if chunk.free:
                break
        else:
            chunk = pool.grow()
        address = chunk.free.pop()
        offset = address - chunk.stretch.address
        entry = DmaEntry(pool.block_name, address, pool.size, where())
        memory = DmaMemory(entry, chunk.stretch.view[offset : offset + pool.size], pool.take_back)
        pool.used[address] = memory, chunk
        return memory


def dma_pool_free(pool: DmaPool, memory: DmaMemory) -> None:
    """Give a block back; the device must not use it any more."""
    ours, _ = pool.used.get(memory.dma_handle, (None, None))
    if ours is not memory:
        warn(ReportKind.DMA_DOUBLE_FREE, f"dma_pool_free {pool.name}: {memory.entry}")
    else:
        memory.entry.freed_at = where()
        memory.free(POISON_FREED)


def dma_pool_destroy(pool: DmaPool) -> None:
    """The end of a pool. Blocks that were not given back are reported, and lost."""
    if not pool.pdev.dma.debug.remove(pool.entry):
        return
    with pool.sched.lock:
        (chunks, pool.chunks), (used, pool.used) = (pool.chunks, []), (pool.used, {})
        busy = [block.entry for block, _ in used.values()]
        holding = [id(chunk) for _, chunk in used.values()]
        unused = [chunk for chunk in chunks if id(chunk) not in holding]
    for entry in busy:
        warn(ReportKind.DMA_LEAK, f"dma_pool_destroy {pool.name}: busy: {entry}", entry.allocated_at)
    for chunk in unused:
        chunk.stretch.release()
