# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Guest memory of a loopback host, with an allocator that places buffers anywhere in a page."""

from __future__ import annotations

import mmap
from collections.abc import Iterable

from ihsm_abi.pci import PAGE_BYTES
from ihsm_device.hosts import LoopbackHost

BASE_IOVA = 0x4_0000_0000


class GuestMemory:
    """`size` bytes from `base`, mapped as regions that end at the given offsets (multiples of a page).

    Neighbouring regions have neighbouring addresses in the guest and gaps between them in this process.
    """

    def __init__(
        self, host: LoopbackHost, size: int = 1 << 20, *, base: int = BASE_IOVA, ends: Iterable[int] = ()
    ) -> None:
        self.base = base
        self.size = size
        self._host = host
        self._regions: list[tuple[int, memoryview]] = []
        self._next = 0
        start = 0
        for end in [*ends, size]:
            region = memoryview(mmap.mmap(-1, end - start + PAGE_BYTES))[: end - start]
            host.map(base + start, region)
            self._regions.append((start, region))
            start = end

    def allocate(self, size: int, *, skew: int = 0) -> int:
        """Address of `size` fresh bytes, `skew` bytes into a page; a page between them and all others stays unused."""
        if self._next + skew + size > self.size:
            raise MemoryError(f"{size} bytes do not fit into what is left of {self.size}")
        iova = self.base + self._next + skew
        self._next += -(-(skew + size) // PAGE_BYTES) * PAGE_BYTES + PAGE_BYTES
        return iova

    def free_all(self) -> None:
        """Forget every allocation; contents stay."""
        self._next = 0

    def write(self, iova: int, data: bytes) -> None:
        """Copy `data` to `iova`, across regions."""
        for view, part in self._pieces(iova, len(data)):
            view[:] = data[part]

    def read(self, iova: int, size: int) -> bytes:
        """`size` bytes at `iova`, across regions."""
        return b"".join(bytes(view) for view, _ in self._pieces(iova, size))

    def view(self, iova: int, size: int) -> memoryview:
        """Memory itself; it must lie in one region."""
        [(view, _)] = self._pieces(iova, size)
        return view

    def _pieces(self, iova: int, size: int) -> Iterable[tuple[memoryview, slice]]:
        offset, done = iova - self.base, 0
        if not 0 <= offset <= offset + size <= self.size:
            raise IndexError(f"{iova:#x} + {size} lies outside guest memory")
        for start, region in self._regions:
            low, high = max(offset + done, start), min(offset + size, start + len(region))
            if low < high:
                yield region[low - start : high - start], slice(low - offset, high - offset)
                done = high - offset
