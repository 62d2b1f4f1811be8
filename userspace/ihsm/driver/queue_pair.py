# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A submission and a completion ring as numpy arrays over DMA memory (spec 01 §5)."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ihsm._native import ffi, lib
from ihsm.bus import DmaArena, DmaBuffer
from ihsm.driver.completion import CompletionLine
from ihsm.driver.doorbells import Doorbells
from ihsm.driver.records import RecordCodec, as_rows
from ihsm.driver.submission import Collect, Submission
from ihsm.errors import BusError, CommandTimeoutError, DriverError, IhsmError, QueueClosedError, QueueProtocolError
from ihsm_abi import admin, aes_queue, doorbells, hsm_queue
from ihsm_abi.admin import Psf
from ihsm_abi.pci import PAGE_BYTES

log = logging.getLogger(__name__)


class RingFormat(NamedTuple):
    """What the three kinds of rings differ in."""

    kind: str
    sqe: np.dtype[np.void]
    cqe: np.dtype[np.void]
    cid: str
    """Name of the command id in both entries."""


ADMIN_RING: Final = RingFormat("admin", admin.ADMIN_SQE, admin.ADMIN_CQE, "cid")
HSM_RING: Final = RingFormat("HSM", hsm_queue.HSM_SQE, hsm_queue.HSM_CQE, "cid")
AES_RING: Final = RingFormat("AES", aes_queue.GCM_SQE, aes_queue.AES_CQE, "cmd_id")

MIN_ENTRIES: Final = 2


@dataclass(slots=True)
class LentRings:
    """Both rings of a queue for a loop of the borrower's own, see `QueuePair.lent`."""

    sq: NDArray[np.uint8]
    cq: NDArray[np.uint8]
    tail: int
    head: int
    phase: int


class _Batch(NamedTuple):
    """A batch and its completions as words."""

    submission: Submission
    rows: NDArray[np.uint64]


class QueuePair:
    """SQ and CQ of one id. All methods may be called from any thread."""

    def __init__(
        self, ring: RingFormat, queue_id: int, entries: int, arena: DmaArena, bells: Doorbells, line: CompletionLine
    ) -> None:
        """Allocate both rings; the queue does not exist on the device yet.

        Args:
            ring: the kind of queue.
            queue_id: id of both SQ and CQ.
            entries: slots of each ring, 2 to 65536; at most `entries - 1` commands are outstanding.
            arena: where the rings are allocated.
            bells: doorbells of the function.
            line: how completions are waited for; the queue joins it.
        """
        if not MIN_ENTRIES <= entries <= 65536:
            raise ValueError(f"{entries} entries in a ring, {MIN_ENTRIES} to 65536 possible")
        self.ring = ring
        self.queue_id = queue_id
        self.entries = entries
        self.line = line
        self.lock = threading.RLock()
        self.stray_completions = 0
        self._bells = bells
        self._sq_bell = doorbells.sq_tail_offset(queue_id)
        self._cq_bell = doorbells.cq_head_offset(queue_id)
        self._sq_buffer = arena.allocate_pages(entries * ring.sqe.itemsize)
        self._cq_buffer = arena.allocate_pages(entries * ring.cqe.itemsize)
        sq = self._sq_buffer.view[: entries * ring.sqe.itemsize]
        self._rows = sq.view(np.uint64).reshape(entries, -1)
        self._sq_bytes = sq.data
        self._sqe_bytes = ring.sqe.itemsize
        self._cqe_bytes = ring.cqe.itemsize
        self._cid_column: NDArray[np.uint16] = sq.view(ring.sqe)[ring.cid]
        self._cq_bytes = self._cq_buffer.view.data
        # Whole entries are copied as 64-bit words: structured arrays are copied field by field, several times slower.
        self._cq_rows = self._cq_buffer.view[: entries * ring.cqe.itemsize].view(np.uint64).reshape(entries, -1)
        self._codec = RecordCodec(ring.cqe)
        assert ring.cqe.fields is not None
        self._cid_offset = ring.cqe.fields[ring.cid][1]
        self._cid_index = self._codec.names.index(ring.cid)
        self._cq: Any = ffi.new("struct ihsm_cq *")
        self._cq_memory: Any = ffi.from_buffer(self._cq_buffer.view)
        self._open = False
        self._tail = 0
        self._sqhd = 0
        self._unacknowledged = 0
        self._serial = 0
        self._batches: dict[int, _Batch] = {}
        self._singles: list[Submission | None] = [None] * entries
        self._order = np.arange(entries, dtype=np.int64)
        self._seen = np.zeros(entries, np.int64)
        self._serial_of = np.zeros(entries, np.int64)
        self._position_of = np.zeros(entries, np.int64)
        self._free = np.arange(entries - 1, dtype=np.int64)
        self._free_count = entries - 1
        self.restart()
        line.queues.append(self)

    def __str__(self) -> str:
        """Like `HSM queue 1`."""
        return f"{self.ring.kind} queue {self.queue_id}"

    @property
    def sq_iova(self) -> int:
        """I/O address of the SQ."""
        return self._sq_buffer.iova

    @property
    def cq_iova(self) -> int:
        """I/O address of the CQ."""
        return self._cq_buffer.iova

    @property
    def outstanding(self) -> int:
        """Commands submitted and not completed, those of failed submissions included."""
        return self.entries - 1 - self._free_count

    @property
    def is_open(self) -> bool:
        """Whether submissions are accepted."""
        return self._open

    @property
    def has_room(self) -> bool:
        """Whether a command would be accepted without waiting."""
        return self._open and self._room() > 0

    @classmethod
    def ring_bytes(cls, ring: RingFormat, entries: int) -> int:
        """DMA memory that both rings take."""
        return sum(-(-entries * dtype.itemsize // PAGE_BYTES) * PAGE_BYTES for dtype in (ring.sqe, ring.cqe))

    def suspend(self) -> None:
        """Refuse submissions; what is outstanding goes on."""
        self._open = False
        self.line.kick()

    def open(self) -> None:
        """Accept submissions: the queue exists on the device."""
        self._open = True

    def restart(self) -> None:
        """State of a new queue pair: rings zeroed, phase 1 expected (spec 01 §4.3), nothing outstanding."""
        with self.lock:
            self._rows[:] = 0
            self._cq_buffer.view[:] = 0
            self._cq.ring = self._cq_memory
            self._cq.entries = self.entries
            self._cq.entry_bytes = self.ring.cqe.itemsize
            self._cq.head = 0
            self._cq.phase = 1
            self._unacknowledged = 0
            self.restart_sq()

    def restart_sq(self) -> None:
        """State after DELETE_SQ and CREATE_SQ: tail and head 0, all command ids free; the CQ goes on (spec 01 §8.2)."""
        with self.lock:
            self._tail = self._sqhd = 0
            for submission in self._live():
                submission.let_go()
            self._batches.clear()
            self._singles = [None] * self.entries
            self._serial_of[:] = 0
            self._free = np.arange(self.entries - 1, dtype=np.int64)
            self._free_count = self.entries - 1

    def close(self, error: IhsmError | None = None) -> None:
        """Refuse submissions and fail what is outstanding; the device must not use the rings any more."""
        self._open = False
        self.fail(error or QueueClosedError(f"{self} is closed"))
        self.line.kick()

    @contextlib.contextmanager
    def lent(self) -> Iterator[LentRings]:
        """Lend the rings to a loop that writes entries and rings doorbells itself; nothing may be outstanding.

        The borrower leaves nothing outstanding either, acknowledges what it takes, and puts tail, head and phase back
        into the object. If the block raises, the queue stays closed.
        """
        with self.lock:
            self._check_open()
            if self.outstanding:
                raise ValueError(f"{self}: {self.outstanding} commands are outstanding, none may be")
            self._open = False
            rings = LentRings(
                self._sq_buffer.view[: self.entries * self.ring.sqe.itemsize],
                self._cq_buffer.view[: self.entries * self.ring.cqe.itemsize],
                self._tail,
                self._cq.head,
                self._cq.phase,
            )
        yield rings
        with self.lock:
            self._tail = self._sqhd = rings.tail
            self._cq.head, self._cq.phase = rings.head, rings.phase
            self._unacknowledged = 0
            self._open = True

    @property
    def doorbell_offsets(self) -> tuple[int, int]:
        """Byte offsets of SQ tail and CQ head in BAR2."""
        return self._sq_bell, self._cq_bell

    def submit(self, entries: NDArray[np.void], timeout_s: float, held: DmaBuffer | None = None) -> Submission:
        """Submit a batch of SQEs with one doorbell; command ids are filled in by the queue.

        A full ring is waited for, and a batch that does not fit is submitted in parts; so `timeout_s` bounds this call
        as well as the completion of the whole batch. The result is an array of CQEs in the order of the SQEs.

        Args:
            entries: one-dimensional array of SQEs of this ring's size; copied, so it may be used again.
            timeout_s: seconds.
            held: released once the device no longer uses it: all commands completed, or the queue is gone.

        Raises:
            CommandTimeoutError: no room in time; what was submitted before is still outstanding.
            QueueClosedError: the queue is closed.
        """
        rows = as_rows(entries, self.ring.sqe.itemsize)
        outcome = np.zeros(len(rows), self.ring.cqe)
        submission = Submission(self, len(rows), time.monotonic() + timeout_s, outcome=outcome, held=held)
        batch = _Batch(submission, as_rows(outcome, self.ring.cqe.itemsize))
        start = 0
        while start < len(rows):
            with self.lock:
                self._check_open()
                count = min(self._room(), len(rows) - start)
                if count:
                    self._write_batch(rows[start : start + count], batch, start)
            if not count:
                self._wait_for_room(submission)
            start += count
        return submission

    def submit_one(
        self, build: Callable[[int], bytes], collect: Collect, timeout_s: float, held: DmaBuffer | None = None
    ) -> Submission:
        """Submit one SQE, made by `build(cid)` once a command id is free; otherwise like `submit`."""
        submission = Submission(self, 1, time.monotonic() + timeout_s, collect=collect, held=held)
        try:
            while not self._write_one(submission, build):
                self._wait_for_room(submission)
        except (DriverError, BusError):
            submission.let_go()
            raise
        return submission

    def _write_one(self, submission: Submission, build: Callable[[int], bytes]) -> bool:
        """Write a single SQE; False if there is no room."""
        with self.lock:
            self._check_open()
            if self._room() <= 0:
                return False
            self._free_count -= 1
            cid = self._free.item(self._free_count)
            start = self._tail * self._sqe_bytes
            self._sq_bytes[start : start + self._sqe_bytes] = build(cid)
            self._singles[cid] = submission
            if self._unacknowledged + self.outstanding >= self.entries:
                # The device starts no command whose completion might find the CQ full: this one would wait for others.
                self._ring_cq()
            self._advance_tail(1)
            return True

    def _check_open(self) -> None:
        if not self._open:
            raise QueueClosedError(f"{self} is closed")

    def _room(self) -> int:
        return min(self._free_count, (self._sqhd - self._tail - 1) % self.entries)

    def _wait_for_room(self, submission: Submission) -> None:
        timeout_s = submission.deadline - time.monotonic()
        if not self.line.wait(lambda: not self._open or self._room() > 0, self, max(0.0, timeout_s)):
            raise CommandTimeoutError(f"{self}: no room in the ring of {self.entries} entries in time")
        if submission.error is not None:
            raise submission.error

    def _write_batch(self, rows: NDArray[np.uint64], batch: _Batch, position: int) -> None:
        count = len(rows)
        self._serial += 1
        self._batches[self._serial] = batch
        self._free_count -= count
        cids = self._free[self._free_count : self._free_count + count]
        self._serial_of[cids] = self._serial
        self._position_of[cids] = self._order[:count] + position
        first = min(count, self.entries - self._tail)
        for start, part in ((self._tail, slice(0, first)), (0, slice(first, count))):
            length = part.stop - part.start
            if length:
                self._rows[start : start + length] = rows[part]
                self._cid_column[start : start + length] = cids[part]
        self._advance_tail(count)

    def _advance_tail(self, count: int) -> None:
        self._tail = (self._tail + count) % self.entries
        self._bells.ring(self._sq_bell, self._tail)

    def spin(self, spin_ns: int) -> None:
        """Look at the ring, without the interpreter lock, until an entry is there."""
        lib.ihsm_cq_spin(self._cq, 1, spin_ns)

    def reap(self) -> int:
        """Take all new completions; safe from any thread, but meant for the leader of the line."""
        finished: list[Submission] = []
        with self.lock:
            count: int = lib.ihsm_cq_ready(self._cq)
            if not count:
                return 0
            head: int = self._cq.head
            lib.ihsm_cq_advance(self._cq, count)
            if count == 1:
                start = head * self._cqe_bytes
                error = self._take_one(bytes(self._cq_bytes[start : start + self._cqe_bytes]), finished)
            else:
                error = self._take_many(head, count, finished)
            self._acknowledge(count)
        if error is not None:
            self.fail(error)
        for submission in finished:
            submission.announce()
        return count

    def _acknowledge(self, count: int) -> None:
        # Half a ring at a time: the device only needs the head to know that the CQ is not full.
        self._unacknowledged += count
        if self._unacknowledged * 2 >= self.entries:
            self._ring_cq()

    def _ring_cq(self) -> None:
        self._unacknowledged = 0
        self._bells.ring(self._cq_bell, self._cq.head)

    def _take_many(self, head: int, count: int, finished: list[Submission]) -> QueueProtocolError | None:
        """Account for completions, oldest first; what has thereby completed is appended to `finished`."""
        rows = self._cq_rows[head : head + count].copy()
        if len(rows) < count:
            rows = np.concatenate((rows, self._cq_rows[: count - len(rows)]))
        error = self._take_sqhd(self._codec.unpack(rows[-1].tobytes()))
        if error is None:
            for run in self._runs(rows):
                if not self._take_batch(run, finished):
                    for row in run:
                        error = error or self._take_one(row.tobytes(), finished)
        return error

    def _runs(self, rows: NDArray[np.uint64]) -> Iterator[NDArray[np.uint64]]:
        """The completions cut where one batch's end and another's begin; a device in order gives few pieces."""
        cids = self._cids(rows)
        if int(cids.max()) >= self.entries:
            yield rows
            return
        start = 0
        for end in (*(np.flatnonzero(np.diff(self._serial_of[cids])) + 1).tolist(), len(rows)):
            yield rows[start:end]
            start = end

    def _cids(self, rows: NDArray[np.uint64]) -> NDArray[np.int64]:
        return np.ndarray(len(rows), np.uint16, rows, self._cid_offset, (rows.strides[0],)).astype(np.int64)

    def _take_sqhd(self, record: Any) -> QueueProtocolError | None:
        if record.sqhd >= self.entries:
            return QueueProtocolError(f"{self}: SQ head {record.sqhd} in a completion of a ring of {self.entries}")
        self._sqhd = record.sqhd
        return None

    def _take_batch(self, rows: NDArray[np.uint64], finished: list[Submission]) -> bool:
        """Take completions that all belong to one batch; False, and nothing done, if they do not."""
        cids = self._cids(rows)
        if int(cids.max()) >= self.entries - 1:
            return False
        serial = int(self._serial_of[cids[0]])
        order = self._order[: len(cids)]
        self._seen[cids] = order
        if not serial or not (self._serial_of[cids] == serial).all() or not (self._seen[cids] == order).all():
            return False
        batch = self._batches[serial]
        batch.rows[self._position_of[cids]] = rows
        self._serial_of[cids] = 0
        self._free[self._free_count : self._free_count + len(cids)] = cids
        self._free_count += len(cids)
        self._finish(batch.submission, len(cids), finished)
        if not (self._serial_of == serial).any():
            del self._batches[serial]
        return True

    def _take_one(self, raw: bytes, finished: list[Submission]) -> QueueProtocolError | None:
        """Account for one completion."""
        record = self._codec.unpack(raw)
        error = self._take_sqhd(record)
        cid: int = record[self._cid_index]
        submission = self._singles[cid] if cid < self.entries else None
        if submission is not None:
            self._singles[cid] = None
            try:
                assert submission.collect is not None
                submission.outcome = submission.collect(cid, record)
            except IhsmError as failure:
                # One that had timed out before has been announced with that error.
                submission.error = submission.error or failure
        elif cid < self.entries and self._serial_of[cid]:
            submission = self._store(cid, raw)
        else:
            self.stray_completions += 1
            log.warning("%s: completion with command id %d, which is not outstanding", self, cid)
            return error
        self._free[self._free_count] = cid
        self._free_count += 1
        self._finish(submission, 1, finished)
        return error

    def _store(self, cid: int, raw: bytes) -> Submission:
        """Store one completion of a batch."""
        serial = int(self._serial_of[cid])
        self._serial_of[cid] = 0
        batch = self._batches[serial]
        batch.rows[self._position_of[cid]] = np.frombuffer(raw, np.uint64)
        if not (self._serial_of == serial).any():
            del self._batches[serial]
        return batch.submission

    @staticmethod
    def _finish(submission: Submission, count: int, finished: list[Submission]) -> None:
        submission.remaining -= count
        if submission.remaining == 0:
            submission.let_go()
            finished.append(submission)

    def _live(self) -> list[Submission]:
        batches = {id(batch.submission): batch.submission for batch in self._batches.values()}
        return [*batches.values(), *(single for single in self._singles if single is not None)]

    def fail(self, error: IhsmError) -> None:
        """Fail everything outstanding; the command ids stay taken until the device completes or forgets them."""
        with self.lock:
            failed = [submission for submission in self._live() if not submission.done()]
            for submission in failed:
                submission.error = error
        for submission in failed:
            submission.announce()

    def expire(self, now: float) -> None:
        """Fail what is outstanding past its deadline."""
        with self.lock:
            failed = [submission for submission in self._live() if not submission.done() and submission.deadline < now]
            for submission in failed:
                submission.error = CommandTimeoutError(f"{self}: commands not completed in time")
        for submission in failed:
            submission.announce()

    def release(self) -> None:
        """Give the ring memory back."""
        self._cq.ring = ffi.NULL
        self._cq_memory = None
        self._rows = np.empty((0, 0), np.uint64)
        self._sq_bytes = self._cq_bytes = memoryview(b"")
        self._cid_column = np.empty(0, np.uint16)
        self._cq_rows = np.empty((0, 0), np.uint64)
        self._sq_buffer.release()
        self._cq_buffer.release()


def status_of(psf: int) -> int:
    """15-bit status of a completion's last word."""
    return Psf(psf).status
