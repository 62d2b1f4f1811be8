# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""DMA arena: one stretch of memory that the device can reach, handed out in aligned buffers."""

from __future__ import annotations

import bisect
import contextlib
import mmap
import threading
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ihsm import forks
from ihsm.arguments import checked, whole
from ihsm.bus.unsharing import unshare
from ihsm.closing import Closing
from ihsm.errors import ArenaError, ArenaFullError, ArenaRequestError, ForkedError
from ihsm_abi.pci import PAGE_BYTES

MAX_ARENA_BYTES: Final = 64 << 20
DEFAULT_ALIGNMENT: Final = 64
"""A cache line: buffers of different owners never share one."""


class DmaBuffer(Closing):
    """Bytes of an arena: `view` for the program, `iova` for the device. Free it with `release` or `with`."""

    __slots__ = ("_arena", "_offset", "iova", "size_bytes", "view")

    def __init__(self, arena: DmaArena, offset: int, size_bytes: int) -> None:
        """Made by `DmaArena.allocate` only."""
        self._arena: DmaArena | None = arena
        self._offset = offset
        self.size_bytes = size_bytes
        self.iova = arena.iova + offset
        self.view: NDArray[np.uint8] = arena.array[offset : offset + size_bytes]

    def release(self) -> None:
        """Give the bytes back; harmless the second time. The device must no longer use them."""
        arena, self._arena = self._arena, None
        if arena is not None:
            self.view = np.empty(0, np.uint8)
            arena.give_back(self._offset, self.size_bytes)

    def close(self) -> None:
        """The same as `release`, for `with`."""
        self.release()


class DmaArena(Closing):
    """Memory mapped for DMA at consecutive I/O addresses; every method may be called from any thread.

    A child of fork() finds zeros in the buffers that it has of its parent, and what it writes there reaches nobody.
    """

    def __init__(self, memory: mmap.mmap, iova: int, unmap: Callable[[], None]) -> None:
        """Wrap `memory`, which the device sees from I/O address `iova` on; `unmap` ends that and is called once."""
        self._memory = memory
        self._unmap: Callable[[], None] | None = unmap
        self._forked = False
        self._lock = threading.Lock()
        self._free = [(0, len(memory))]
        self.iova = iova
        self.size_bytes = len(memory)
        self.array: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        forks.watch(self)

    def forked(self) -> None:
        """In a child of fork(): the memory is the parent's, and stays mapped for its device."""
        self._lock = threading.Lock()
        self._forked = True
        self._unmap = None
        self._free = []
        unshare(self._memory)

    @checked
    def allocate(self, size_bytes: int, alignment: int = DEFAULT_ALIGNMENT) -> DmaBuffer:
        """Buffer of `size_bytes` bytes at a multiple of `alignment` (a power of two, at most a page); not cleared.

        Raises:
            ArenaRequestError, ArgumentTypeError: no such size or alignment.
            ArenaFullError: nothing left that is large enough.
            ArenaError: the arena is closed.
            ForkedError: it is the parent's.
        """
        if size_bytes <= 0:
            raise ArenaRequestError("DmaArena.allocate", "size_bytes", f"{size_bytes} bytes, at least 1 needed")
        if alignment <= 0 or alignment & (alignment - 1) or alignment > PAGE_BYTES:
            problem = f"alignment {alignment} is no power of two up to {PAGE_BYTES}"
            raise ArenaRequestError("DmaArena.allocate", "alignment", problem)
        with self._lock:
            if self._unmap is None:
                raise ForkedError("DmaArena.allocate") if self._forked else ArenaError("the DMA arena is closed")
            for index, (start, length) in enumerate(self._free):
                offset = -(-start // alignment) * alignment
                rest = start + length - (offset + size_bytes)
                if rest >= 0:
                    pieces = [(start, offset - start), (offset + size_bytes, rest)]
                    self._free[index : index + 1] = [piece for piece in pieces if piece[1]]
                    return DmaBuffer(self, offset, size_bytes)
            largest = max((length for _, length in self._free), default=0)
        raise ArenaFullError(
            f"no room for {size_bytes} bytes in the DMA arena of {self.size_bytes}: largest free piece {largest}"
        )

    def allocate_pages(self, size_bytes: int) -> DmaBuffer:
        """Zeroed buffer of whole pages, page-aligned: ring memory (spec 01 §5)."""
        pages = -(-whole("DmaArena.allocate_pages", "size_bytes", size_bytes) // PAGE_BYTES)
        buffer = self.allocate(pages * PAGE_BYTES, PAGE_BYTES)
        buffer.view[:] = 0
        return buffer

    def give_back(self, offset: int, size_bytes: int) -> None:
        """Return a piece; called by `DmaBuffer.release`."""
        with self._lock:
            index = bisect.bisect(self._free, (offset, 0))
            end = offset + size_bytes
            if index < len(self._free) and self._free[index][0] == end:
                end += self._free.pop(index)[1]
            if index and sum(self._free[index - 1]) == offset:
                offset = self._free.pop(index - 1)[0]
                index -= 1
            self._free.insert(index, (offset, end - offset))

    def iova_of(self, view: NDArray[np.uint8]) -> int | None:
        """I/O address of the first byte of a contiguous array if it lies wholly in the arena, else None."""
        if not view.flags.c_contiguous or not self.size_bytes:
            return None
        offset = view.ctypes.data - self.array.ctypes.data
        return self.iova + offset if offset >= 0 and offset + view.nbytes <= self.size_bytes else None

    @property
    def free_bytes(self) -> int:
        """Bytes not handed out."""
        with self._lock:
            return sum(length for _, length in self._free)

    def close(self) -> None:
        """End the device's access; harmless the second time. Buffers still held keep their memory, not its mapping."""
        with self._lock:
            unmap, self._unmap = self._unmap, None
            self._free = []
        if unmap is None:
            return
        try:
            unmap()
        finally:
            self.array = np.empty(0, np.uint8)
            self.size_bytes = 0
            with contextlib.suppress(BufferError):  # views are still held: the last of them frees the memory
                self._memory.close()
