# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Ring memory: entries written to a submission ring, completions taken from a completion ring (spec 01 §5).

Neither ring has a lock of its own: their queue pair uses them under its lock, `spin` excepted.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ihsm import _native
from ihsm._native import ffi, lib
from ihsm.bus import DmaArena
from ihsm.driver.doorbells import Doorbells
from ihsm_abi import admin, aes_queue, hsm_queue
from ihsm_abi.pci import PAGE_BYTES


class RingFormat(NamedTuple):
    """What the three kinds of rings differ in."""

    kind: str
    sqe: np.dtype[np.void]
    cqe: np.dtype[np.void]
    cid: str
    """Name of the command id in both entries."""

    def ring_bytes(self, entries: int) -> int:
        """DMA memory that both rings take: whole pages each."""
        return sum(-(-entries * dtype.itemsize // PAGE_BYTES) * PAGE_BYTES for dtype in (self.sqe, self.cqe))


ADMIN_RING: Final = RingFormat("admin", admin.ADMIN_SQE, admin.ADMIN_CQE, "cid")
HSM_RING: Final = RingFormat("HSM", hsm_queue.HSM_SQE, hsm_queue.HSM_CQE, "cid")
AES_RING: Final = RingFormat("AES", aes_queue.GCM_SQE, aes_queue.AES_CQE, "cmd_id")


class _Ring:
    """Entries of one size in DMA memory, and the doorbell that tells the device how far they go."""

    __slots__ = ("_bells", "_buffer", "_bytes", "_entries", "_entry_bytes", "_rows", "bell")

    def __init__(self, entry: np.dtype[np.void], entries: int, arena: DmaArena, bells: Doorbells, bell: int) -> None:
        """Allocate the ring; `bell` is the byte offset of its doorbell in BAR2."""
        self._entries = entries
        self._entry_bytes = entry.itemsize
        self._buffer = arena.allocate_pages(entries * entry.itemsize)
        self._bytes = self.memory.data
        # Whole entries are copied as 64-bit words: structured arrays are copied field by field, several times slower.
        self._rows = self.memory.view(np.uint64).reshape(entries, -1)
        self._bells = bells
        self.bell = bell

    @property
    def iova(self) -> int:
        """I/O address."""
        return self._buffer.iova

    @property
    def memory(self) -> NDArray[np.uint8]:
        """The ring's bytes."""
        return self._buffer.view[: self._entries * self._entry_bytes]

    def clear(self) -> None:
        """Zero the memory: where phase 1 is expected, no completion is new."""
        self._buffer.view[:] = 0

    def release(self) -> None:
        """Give the memory back."""
        self._bytes = memoryview(b"")
        self._rows = np.empty((0, 0), np.uint64)
        self._buffer.release()


class SubmissionRing(_Ring):
    """An SQ: entries are written at the tail and announced; the device says how far it has fetched."""

    __slots__ = ("_cids", "_memory", "pointer")

    def __init__(self, ring: RingFormat, entries: int, arena: DmaArena, bells: Doorbells, bell: int) -> None:
        """Allocate the ring; `bell` is the byte offset of its doorbell in BAR2."""
        super().__init__(ring.sqe, entries, arena, bells, bell)
        self._cids: NDArray[np.uint16] = self.memory.view(ring.sqe)[ring.cid]
        self._memory = ffi.from_buffer("uint8_t[]", self._buffer.view, require_writable=True)
        self.pointer: _native.ihsm_sq_pointer = ffi.new("struct ihsm_sq *")
        """The ring as C sees it."""
        self.pointer.ring = self._memory
        self.pointer.entries, self.pointer.entry_bytes = entries, self._entry_bytes

    @property
    def tail(self) -> int:
        """Where the next entry goes."""
        return self.pointer.tail

    @property
    def room(self) -> int:
        """Entries that can be written: one slot stays empty, and the device must have fetched what was there."""
        return (self.pointer.head - self.pointer.tail - 1) % self._entries

    def check(self, entry: bytes) -> None:
        """ValueError for an entry that `write` would not take."""
        if len(entry) != self._entry_bytes:
            raise ValueError(f"entry of {len(entry)} bytes, {self._entry_bytes} needed")

    def write(self, entry: bytes) -> None:
        """Write one entry, its command id included, where there is room; ValueError if it has another size."""
        tail = self.pointer.tail
        start = tail * self._entry_bytes
        self._bytes[start : start + self._entry_bytes] = entry
        self.pointer.tail = (tail + 1) % self._entries

    def write_many(self, rows: NDArray[np.uint64], cids: NDArray[np.int64]) -> None:
        """Write entries given as words, with these command ids, where there is room; in two parts over the end."""
        tail = self.pointer.tail
        first = min(len(rows), self._entries - tail)
        for start, part in ((tail, slice(0, first)), (0, slice(first, len(rows)))):
            length = part.stop - part.start
            if length:
                self._rows[start : start + length] = rows[part]
                self._cids[start : start + length] = cids[part]
        self.pointer.tail = (tail + len(rows)) % self._entries

    def announce(self) -> None:
        """Ring the doorbell: the device may fetch everything written."""
        self.pointer.announced = tail = self.pointer.tail
        self._bells.ring(self.bell, tail)

    def announce_rest(self) -> None:
        """Ring the doorbell if something was written since."""
        if self.pointer.announced != self.pointer.tail:
            self.announce()

    def fetched(self, head: int) -> bool:
        """Take over the SQ head of a completion; False if there is no such slot."""
        if head >= self._entries:
            return False
        self.pointer.head = head
        return True

    def resume(self, tail: int) -> None:
        """Go on at `tail`, everything before it fetched."""
        self.pointer.tail = self.pointer.head = self.pointer.announced = tail

    def release(self) -> None:
        """Give the memory back."""
        self._cids = np.empty(0, np.uint16)
        self.pointer.ring = ffi.NULL
        self._memory = ffi.from_buffer("uint8_t[]", bytearray(), require_writable=True)
        super().release()


class CompletionRing(_Ring):
    """A CQ: entries whose phase is right are new; the device is told how far they have been taken."""

    __slots__ = ("_memory", "pointer")

    def __init__(self, ring: RingFormat, entries: int, arena: DmaArena, bells: Doorbells, bell: int) -> None:
        """Allocate the ring; `bell` is the byte offset of its doorbell in BAR2."""
        super().__init__(ring.cqe, entries, arena, bells, bell)
        self._memory = ffi.from_buffer("uint8_t[]", self._buffer.view)
        self.pointer: _native.ihsm_cq_pointer = ffi.new("struct ihsm_cq *")
        """The ring as C sees it."""
        self.pointer.ring = self._memory
        self.pointer.entries, self.pointer.entry_bytes = entries, self._entry_bytes
        self.resume(0, 1)

    @property
    def head(self) -> int:
        """Slot of the oldest entry that has not been taken."""
        return self.pointer.head

    @property
    def phase(self) -> int:
        """Phase bit of a new entry at the head."""
        return self.pointer.phase

    def spin(self, spin_ns: int, wanted: int = 1) -> None:
        """Look at the ring for up to `spin_ns` ns, without the interpreter lock, until `wanted` entries are new."""
        lib.ihsm_cq_spin(self.pointer, wanted, spin_ns)

    def ready(self) -> int:
        """Number of new entries."""
        return lib.ihsm_cq_ready(self.pointer)

    def take(self) -> bytes:
        """Take the oldest of the new entries."""
        start = self.pointer.head * self._entry_bytes
        lib.ihsm_cq_advance(self.pointer, 1)
        return bytes(self._bytes[start : start + self._entry_bytes])

    def take_many(self, count: int) -> NDArray[np.uint64]:
        """Take the `count` oldest of the new entries: a row of words each, oldest first, the caller's own."""
        head = self.pointer.head
        lib.ihsm_cq_advance(self.pointer, count)
        rows = self._rows[head : head + count].copy()
        return rows if len(rows) == count else np.concatenate((rows, self._rows[: count - len(rows)]))

    def acknowledge(self, count: int) -> None:
        """Account for entries that were taken; the device only needs the head to know that the CQ is not full."""
        self.pointer.unacknowledged += count
        if self.pointer.unacknowledged * 2 >= self._entries:
            self._tell()

    def assure(self, outstanding: int) -> None:
        """Have the device know of room for so many completions: it starts no command that might find the CQ full."""
        if self.pointer.unacknowledged + outstanding >= self._entries:
            self._tell()

    def _tell(self) -> None:
        self.pointer.unacknowledged = 0
        self._bells.ring(self.bell, self.pointer.head)

    def resume(self, head: int, phase: int) -> None:
        """Go on at a slot with a phase, everything before it acknowledged."""
        self.pointer.head, self.pointer.phase = head, phase
        self.pointer.unacknowledged = 0

    def release(self) -> None:
        """Give the memory back."""
        self.pointer.ring = ffi.NULL
        self._memory = ffi.from_buffer("uint8_t[]", b"")
        super().release()
