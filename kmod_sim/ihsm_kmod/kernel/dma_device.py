# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The memory that one device reaches: arenas, and what is taken of them."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ihsm.bus.arena import DmaArena, DmaBuffer
from ihsm.bus.function import PciFunction
from ihsm.errors import ArenaError, BusError
from ihsm_kmod.kernel.dma_debug import DmaDebug
from ihsm_kmod.kernel.errors import Errno

ARENA_BYTES: Final = 4 << 20
"""Memory that is mapped for a device at a time: each arena costs it a region of its own."""
DEFAULT_MASK_BITS: Final = 32
"""Addresses that Linux believes a PCI device capable of, until its driver says more."""


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
        self.debug.end()
        with self._lock:
            arenas, self._arenas = self._arenas, []
        for arena in arenas:
            with contextlib.suppress(BusError):
                arena.close()
