# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Bounce pages of HSM commands: the device reads and writes these, never the caller's memory (spec 02 D).

They come from a pool and are not cleared: behind a request, and where the device wrote nothing, they have what earlier
commands left.
"""

from __future__ import annotations

import errno
from typing import Final

from ihsm_abi.pci import PAGE_BYTES
from ihsm_kmod.kernel.dma_debug import DmaMemory
from ihsm_kmod.kernel.dma_pool import DmaPool, dma_pool_alloc, dma_pool_create, dma_pool_destroy, dma_pool_free
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.kref import Kref, kref_get_unless_zero, kref_put
from ihsm_kmod.kernel.pci import PciDev
from ihsm_kmod.kernel.spinlock import SpinLock

POOL_NAME: Final = "azihsm_pages"


class _SharedPool:
    """A DMA pool that goes with the last one who uses it."""

    def __init__(self, pdev: PciDev) -> None:
        self.pool: DmaPool = dma_pool_create(POOL_NAME, pdev, PAGE_BYTES, PAGE_BYTES)
        self.users = Kref(self._destroy)

    def _destroy(self) -> None:
        dma_pool_destroy(self.pool)


class PagePool:
    """The page pool of a function: another one after each initialisation.

    A level-2 abort lets the pool go while the callers that it has woken, or the one that runs it, still hold pages: the
    pool is destroyed when they have given them back.
    """

    def __init__(self) -> None:
        """Without a pool."""
        self._lock = SpinLock("azihsm_page_pool")
        """Held to change which pool there is."""
        self._shared: _SharedPool | None = None

    def create(self, pdev: PciDev) -> None:
        """Make the pool; `Errno` ENOMEM."""
        shared = _SharedPool(pdev)
        with self._lock:
            self._shared = shared

    def drop(self) -> None:
        """Let it go, if there is one."""
        with self._lock:
            shared, self._shared = self._shared, None
        if shared is not None:
            kref_put(shared.users)

    def bounce(self, src_length: int, dst_length: int, *, double_free: bool) -> BouncePages:
        """Pages for a request and an answer of at most so many bytes; `Errno` ENOMEM.

        `double_free` is the quirk `source_pages_freed_twice`.
        """
        shared = self._shared
        if shared is None or not kref_get_unless_zero(shared.users):
            raise Errno(errno.ENOMEM, "the function is being brought down")
        pages = BouncePages(shared, double_free=double_free)
        try:
            pages.allocate(src_length, dst_length)
        except BaseException:
            pages.abandon()
            raise
        return pages


class BouncePages:
    """At most two pages for a request and two for its answer."""

    def __init__(self, shared: _SharedPool, *, double_free: bool) -> None:
        """No pages yet; the caller's reference to the pool becomes this object's."""
        self._shared = shared
        self._double_free = double_free
        self.source: list[DmaMemory] = []
        self.destination: list[DmaMemory] = []

    def allocate(self, src_length: int, dst_length: int) -> None:
        """Take them, those of the request first."""
        for pages, length in ((self.source, src_length), (self.destination, dst_length)):
            for _ in range(0, length, PAGE_BYTES):
                pages.append(dma_pool_alloc(self._shared.pool))

    def write(self, request: bytes) -> None:
        """Put the request in."""
        for page, start in zip(self.source, range(0, len(request), PAGE_BYTES), strict=True):
            piece = request[start : start + PAGE_BYTES]
            page.view[: len(piece)] = memoryview(piece)

    def read(self, size: int) -> bytes:
        """The first bytes of the answer; no more than there is room for."""
        starts = range(0, size, PAGE_BYTES)
        return b"".join(
            page.view[: size - start].tobytes() for page, start in zip(self.destination, starts, strict=False)
        )

    def free(self) -> None:
        """Give all pages back."""
        self._free(self.source)
        self._free(self.destination)
        kref_put(self._shared.users)

    def abandon(self) -> None:
        """Give them back after an error before the command was sent (A.6, failures 17 and 18)."""
        if self._double_free:
            self._free(self.source)
            self._free(self.source)
            kref_put(self._shared.users)
        else:
            self.free()

    def _free(self, pages: list[DmaMemory]) -> None:
        for page in pages:
            dma_pool_free(self._shared.pool, page)


def prps(pages: list[DmaMemory]) -> tuple[int, int]:
    """PRP1 and PRP2: plain page addresses, 0 for a page that is not there (B.1)."""
    first, second, *_ = (*(page.dma_handle for page in pages), 0, 0)
    return first, second
