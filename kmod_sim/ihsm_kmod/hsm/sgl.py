# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Scatter-gather lists: how an AES command tells the device where the caller's pages are (spec 02 C.4, D; 01 §7.1).

A list is a row of segments, each a page of 16-byte descriptors: up to 255 data blocks, and a link to the next segment
where there are more. The entry of the command has the descriptor of the first segment, and never a data block.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ihsm_abi.aes_queue import SGL_DESCRIPTOR, SGL_DESCRIPTORS_PER_SEGMENT, SglType
from ihsm_abi.pci import PAGE_BYTES
from ihsm_kmod.kernel.dma import DmaDirection, dma_alloc_coherent, dma_free_coherent, dma_map_sg, dma_unmap_sg
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import pin_user_pages, sg_alloc_table_from_pages, unpin_user_pages
from ihsm_kmod.kernel.pci import PciDev

DATA_BLOCKS_PER_SEGMENT: Final = SGL_DESCRIPTORS_PER_SEGMENT - 1
Block = tuple[int, int]
"""DMA address and length of a data block."""


def segment_pages(blocks: int) -> int:
    """Pages that are allocated for so many data blocks: one too many where they fill their segments."""
    return blocks // DATA_BLOCKS_PER_SEGMENT + 1


def write_segments(pages: NDArray[np.uint8], address: int, blocks: Sequence[Block]) -> NDArray[np.void]:
    """Write the list of `blocks` to the zeroed `pages`, which the device finds at `address`.

    Returns:
        The descriptor of the first segment, for the queue entry.
    """
    for number, start in enumerate(range(0, len(blocks), DATA_BLOCKS_PER_SEGMENT)):
        segment = pages[number * PAGE_BYTES :][:PAGE_BYTES].view(SGL_DESCRIPTOR)
        here = blocks[start : start + DATA_BLOCKS_PER_SEGMENT]
        segment["addr"][: len(here)], segment["len"][: len(here)] = zip(*here, strict=True)
        left = len(blocks) - start - len(here)
        if left:
            segment[DATA_BLOCKS_PER_SEGMENT] = _segment(address + (number + 1) * PAGE_BYTES, left)
    return _segment(address, len(blocks))


def _segment(address: int, blocks: int) -> NDArray[np.void]:
    """Descriptor of a segment from which on there are so many data blocks."""
    descriptor = np.zeros((), SGL_DESCRIPTOR)
    is_last = blocks <= DATA_BLOCKS_PER_SEGMENT
    descriptor["addr"] = address
    descriptor["len"] = blocks * SGL_DESCRIPTOR.itemsize if is_last else PAGE_BYTES
    descriptor["type"] = (SglType.LAST_SEGMENT if is_last else SglType.SEGMENT) << 4
    return descriptor


class UserSgl:
    """A buffer of the calling program's, lent to the device: pinned, mapped, described."""

    def __init__(self, pdev: PciDev, address: int, length: int, direction: DmaDirection) -> None:
        """Lend it; `Errno` leaves nothing lent.

        Raises:
            Errno: EFAULT not all of it is there, or may be written; EIO no room to map it, or the pieces do not add up;
                ENOMEM no room for the list.
        """
        self.length = length
        with contextlib.ExitStack() as undo:
            pages = pin_user_pages(address, length, write=direction is not DmaDirection.TO_DEVICE)
            undo.callback(unpin_user_pages, pages)
            first, offset = divmod(address, PAGE_BYTES)
            if len(pages) != (address + length - 1) // PAGE_BYTES - first + 1:
                raise Errno(errno.EFAULT, f"{len(pages)} pages of {length} bytes at {address:#x}")
            entries = sg_alloc_table_from_pages(pages, offset, length)
            mapped = dma_map_sg(pdev, entries, direction)
            if not mapped:
                raise Errno(errno.EIO, f"{len(entries)} pages cannot be mapped")
            undo.callback(dma_unmap_sg, pdev, entries, direction)
            blocks = [(entry.dma_address, entry.dma_length) for entry in entries[:mapped]]
            memory = dma_alloc_coherent(pdev, segment_pages(mapped) * PAGE_BYTES)
            undo.callback(dma_free_coherent, pdev, memory)
            if sum(size for _, size in blocks) != length:
                raise Errno(errno.EIO, f"pieces do not add up to {length} bytes")
            self.descriptor: Any = write_segments(memory.view, memory.dma_handle, blocks)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Take it back from the device, with what that wrote."""
        self._undo.close()
