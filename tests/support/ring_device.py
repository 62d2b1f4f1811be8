# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device of the tests' own behind a queue pair: completes what and when it is told to, over plain memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ihsm._native import ffi
from ihsm.bus import DmaArena
from ihsm.driver.completion import CompletionLine
from ihsm.driver.queue_pair import QueuePair
from ihsm.driver.rings import RingFormat
from ihsm_abi import doorbells

IOVA = 0x1_0000_0000


class Bells:
    """Remembers the last value of each doorbell; no page of them is mapped."""

    page: Any = None
    event = None

    def __init__(self) -> None:
        self.values: dict[int, int] = {}
        self.writes = 0

    def ring(self, offset: int, value: int) -> None:
        self.values[offset] = value
        self.writes += 1


class RingDevice:
    """Fetches from the SQ up to the doorbell and posts completions in any order."""

    def __init__(self, queue: QueuePair, arena: DmaArena, bells: Bells) -> None:
        self.queue = queue
        self.ring = queue.ring
        self.bells = bells
        self._arena = arena
        self.head = 0
        self.tail = 0
        self.phase = 1
        self.pending: list[np.void] = []

    def _memory(self, iova: int, dtype: np.dtype[np.void]) -> Any:
        start = iova - self._arena.iova
        return self._arena.array[start : start + self.queue.entries * dtype.itemsize].view(dtype)

    def fetch(self) -> int:
        """Take what the doorbell announces; returns how many."""
        tail = self.bells.values.get(doorbells.sq_tail_offset(self.queue.queue_id), 0)
        entries = self._memory(self.queue.sq_iova, self.ring.sqe)
        count = 0
        while self.head != tail:
            self.pending.append(entries[self.head].copy())
            self.head = (self.head + 1) % self.queue.entries
            count += 1
        return count

    def complete(self, index: int = 0, **fields: int) -> int:
        """Post the completion of a pending command; returns its command id."""
        cid = int(self.pending.pop(index)[self.ring.cid])
        self.post(cid, **fields)
        return cid

    def post(self, cid: int, **fields: int) -> None:
        """Post any completion."""
        cqe = self._memory(self.queue.cq_iova, self.ring.cqe)[self.tail : self.tail + 1]
        cqe[self.ring.cid] = cid
        cqe["sqhd"] = fields.pop("sqhd", self.head)
        for name, value in fields.items():
            cqe[name] = value
        cqe["psf"] = fields.get("psf", 0) << 1 | self.phase
        self.tail += 1
        if self.tail == self.queue.entries:
            self.tail, self.phase = 0, self.phase ^ 1


@contextmanager
def ring_device(
    ring: RingFormat, entries: int, queue_id: int = 1, *, page: bytearray | None = None, spin_us: float = 0
) -> Iterator[RingDevice]:
    """A queue pair that is open, and its device; C rings the doorbells in `page`, if there is one."""
    with DmaArena(mmap.mmap(-1, 4 << 20), IOVA, lambda: None) as arena:
        bells: Any = Bells()
        if page is not None:
            bells.page = ffi.from_buffer("uint8_t[]", page, require_writable=True)
        line = CompletionLine(None, spin_us, lambda: None)
        queue = QueuePair(ring, queue_id, entries, arena, bells, line)
        queue.open()
        yield RingDevice(queue, arena, bells)
        line.close()
        queue.release()
