# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A submission and a completion ring as numpy arrays over DMA memory (spec 01 §5)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ihsm._native import ffi, lib
from ihsm.bus import DmaArena, DmaBuffer
from ihsm.driver.completion import CompletionLine
from ihsm.driver.doorbells import Doorbells
from ihsm.driver.records import as_rows
from ihsm.errors import CommandTimeoutError, IhsmError, QueueClosedError, QueueProtocolError
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

Collect = Callable[[int, bytes], Any]
"""Makes the outcome of a single command from its command id and completion, before the id becomes free; may raise
`IhsmError`, which then is the outcome."""


class Submission:
    """One or more commands submitted together. Completions are kept in the order of submission."""

    __slots__ = (
        "_future",
        "_queue",
        "collect",
        "completions",
        "count",
        "deadline",
        "error",
        "held",
        "outcome",
        "remaining",
    )

    def __init__(
        self, queue: QueuePair, count: int, deadline: float, collect: Collect | None, held: DmaBuffer | None
    ) -> None:
        """Made by a queue's `submit` methods; `deadline` is a value of `time.monotonic`."""
        self._queue = queue
        self._future: Future[Any] | None = None
        self.count = count
        self.remaining = count
        self.completions = np.zeros((count, queue.ring.cqe.itemsize // 8), np.uint64)
        self.outcome: Any = self.completions.view(queue.ring.cqe)[:, 0]
        """What `result` gives."""
        self.collect = collect
        self.held = held
        self.error: IhsmError | None = None
        self.deadline = deadline

    def done(self) -> bool:
        """Whether all commands have completed, or the submission has failed."""
        return self.remaining == 0 or self.error is not None

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for all completions; for plain submissions an array of CQEs in the order of submission.

        Args:
            timeout_s: seconds; None: until the deadline given with the submission.

        Raises:
            CommandTimeoutError: the device may still write to the buffers until the queue is recovered or reset.
            QueueClosedError: the queue was closed or reset meanwhile.
            IhsmError: the device is gone.
        """
        limit_s = self.deadline - time.monotonic() if timeout_s is None else timeout_s
        if not self._queue.line.wait(self.done, self._queue, max(0.0, limit_s)):
            raise CommandTimeoutError(f"{self._queue}: {self.remaining} of {self.count} commands not completed in time")
        if self.error is not None:
            raise self.error
        return self.outcome

    def future(self) -> Future[Any]:
        """The same result as a future, completed by the line's thread; it cannot be cancelled."""
        self._queue.line.ensure_thread()
        with self._queue.lock:
            if self._future is None:
                self._future = Future()
                self._future.set_running_or_notify_cancel()
                finished = self.done()
            else:
                finished = False
        if finished:
            self.announce()
        return self._future

    def announce(self) -> None:
        """Complete the future, if one was asked for; called once, without locks held."""
        if self._future is not None and not self._future.done():
            if self.error is not None:
                self._future.set_exception(self.error)
            else:
                self._future.set_result(self.outcome)


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
        self._cid_column: NDArray[np.uint16] = sq.view(ring.sqe)[ring.cid]
        # Whole entries are copied as 64-bit words: structured arrays are copied field by field, several times slower.
        self._cq_rows = self._cq_buffer.view[: entries * ring.cqe.itemsize].view(np.uint64).reshape(entries, -1)
        self._cq: Any = ffi.new("struct ihsm_cq *")
        self._cq_memory: Any = ffi.from_buffer(self._cq_buffer.view)
        self._open = False
        self._tail = 0
        self._sqhd = 0
        self._unacknowledged = 0
        self._serial = 0
        self._submissions: dict[int, Submission] = {}
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
            for submission in self._submissions.values():
                self._let_go(submission)
            self._submissions.clear()
            self._serial_of[:] = 0
            self._free = np.arange(self.entries - 1, dtype=np.int64)
            self._free_count = self.entries - 1

    def close(self, error: IhsmError | None = None) -> None:
        """Refuse submissions and fail what is outstanding; the device must not use the rings any more."""
        self._open = False
        self.fail(error or QueueClosedError(f"{self} is closed"))
        self.line.kick()

    def submit(self, entries: NDArray[np.void], timeout_s: float, held: DmaBuffer | None = None) -> Submission:
        """Submit a batch of SQEs with one doorbell; command ids are filled in by the queue.

        A full ring is waited for, and a batch that does not fit is submitted in parts; so `timeout_s` bounds this call
        as well as the completion of the whole batch.

        Args:
            entries: one-dimensional array of SQEs of this ring's size; copied, so it may be used again.
            timeout_s: seconds.
            held: released once the device no longer uses it: all commands completed, or the queue is gone.

        Raises:
            CommandTimeoutError: no room in time; what was submitted before is still outstanding.
            QueueClosedError: the queue is closed.
        """
        rows = as_rows(entries, self.ring.sqe.itemsize)
        submission = Submission(self, len(rows), time.monotonic() + timeout_s, None, held)
        start = 0
        while start < len(rows):
            with self.lock:
                self._check_open()
                count = min(self._room(), len(rows) - start)
                if count:
                    self._write(rows[start : start + count], submission, start)
            if not count:
                self._wait_for_room(submission)
            start += count
        return submission

    def submit_one(
        self, build: Callable[[int], bytes], collect: Collect, timeout_s: float, held: DmaBuffer | None = None
    ) -> Submission:
        """Submit one SQE, made by `build(cid)` once a command id is free; otherwise like `submit`."""
        submission = Submission(self, 1, time.monotonic() + timeout_s, collect, held)
        while True:
            with self.lock:
                self._check_open()
                if self._room():
                    cid = int(self._free[self._free_count - 1])
                    row = np.frombuffer(build(cid), np.uint64).reshape(1, -1)
                    self._write(row, submission, 0)
                    return submission
            self._wait_for_room(submission)

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

    def _write(self, rows: NDArray[np.uint64], submission: Submission, position: int) -> None:
        count = len(rows)
        self._serial += 1
        serial = self._serial
        self._submissions[serial] = submission
        self._free_count -= count
        cids = self._free[self._free_count : self._free_count + count]
        self._serial_of[cids] = serial
        self._position_of[cids] = np.arange(position, position + count)
        first = min(count, self.entries - self._tail)
        for start, part in ((self._tail, slice(0, first)), (0, slice(first, count))):
            length = part.stop - part.start
            if length:
                self._rows[start : start + length] = rows[part]
                self._cid_column[start : start + length] = cids[part]
        self._tail = (self._tail + count) % self.entries
        self._bells.ring(self._sq_bell, self._tail)

    def spin(self, spin_ns: int) -> None:
        """Look at the ring, without the interpreter lock, until an entry is there."""
        lib.ihsm_cq_spin(self._cq, 1, spin_ns)

    def reap(self) -> int:
        """Take all new completions; only the leader of the line calls this."""
        if not lib.ihsm_cq_ready(self._cq):
            return 0
        finished: list[Submission] = []
        with self.lock:
            count = int(lib.ihsm_cq_ready(self._cq))
            if not count:
                return 0
            head = int(self._cq.head)
            rows = self._cq_rows[head : head + count].copy()
            if len(rows) < count:
                rows = np.concatenate((rows, self._cq_rows[: count - len(rows)]))
            lib.ihsm_cq_advance(self._cq, count)
            error = self._take(rows, finished)
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
            self._unacknowledged = 0
            self._bells.ring(self._cq_bell, int(self._cq.head))

    def _take(self, rows: NDArray[np.uint64], finished: list[Submission]) -> QueueProtocolError | None:
        """Account for completions, oldest first; what has thereby completed is appended to `finished`."""
        cqes = rows.view(self.ring.cqe)[:, 0]
        cids = cqes[self.ring.cid].astype(np.int64)
        sqhd = int(cqes["sqhd"][-1])
        if sqhd >= self.entries:
            return QueueProtocolError(f"{self}: SQ head {sqhd} in a completion, the ring has {self.entries} entries")
        self._sqhd = sqhd
        known = self._known(cids)
        if known is not None:
            self.stray_completions += len(cids) - int(known.sum())
            log.warning("%s: completions with unknown command ids among %s", self, cids.tolist())
            cids, rows = cids[known], rows[known]
        if not len(cids):
            return None
        serials = self._serial_of[cids]
        self._serial_of[cids] = 0
        first = int(serials[0])
        groups = [(first, slice(None))] if (serials == first).all() else self._groups(serials)
        for serial, members in groups:
            submission = self._submissions[serial]
            failed_before = submission.error is not None
            self._deliver(submission, cids[members], rows[members])
            submission.remaining -= len(cids[members])
            if submission.remaining == 0:
                self._let_go(submission)
                if not failed_before:
                    finished.append(submission)
        self._free[self._free_count : self._free_count + len(cids)] = cids
        self._free_count += len(cids)
        self._forget_finished(groups)
        return None

    def _known(self, cids: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """None if every id is outstanding and occurs once, else which ones to believe."""
        if len(cids) == 1:
            cid = int(cids[0])
            good = cid < self.entries - 1 and self._serial_of[cid] != 0
            return None if good else np.array([False])
        known = cids < self.entries - 1
        known[known] = self._serial_of[cids[known]] != 0
        _, first = np.unique(cids, return_index=True)
        if known.all() and len(first) == len(cids):
            return None
        once = np.zeros(len(cids), np.bool_)
        once[first] = True
        return np.logical_and(known, once)

    @staticmethod
    def _groups(serials: NDArray[np.int64]) -> list[tuple[int, NDArray[np.bool_]]]:
        return [(int(serial), serials == serial) for serial in np.unique(serials)]

    def _forget_finished(self, groups: list[tuple[int, Any]]) -> None:
        for serial, _ in groups:
            if not (self._serial_of == serial).any():
                del self._submissions[serial]

    def _deliver(self, submission: Submission, cids: NDArray[np.int64], rows: NDArray[np.uint64]) -> None:
        """Store completions; the command ids become free afterwards."""
        if submission.collect is None:
            submission.completions[self._position_of[cids]] = rows
        elif submission.error is None:
            try:
                submission.outcome = submission.collect(int(cids[0]), rows[0].tobytes())
            except IhsmError as error:
                submission.error = error

    @staticmethod
    def _let_go(submission: Submission) -> None:
        if submission.held is not None:
            submission.held.release()

    def fail(self, error: IhsmError) -> None:
        """Fail everything outstanding; the command ids stay taken until the device completes or forgets them."""
        with self.lock:
            failed = [submission for submission in set(self._submissions.values()) if not submission.done()]
            for submission in failed:
                submission.error = error
        for submission in failed:
            submission.announce()

    def expire(self, now: float) -> None:
        """Fail what is outstanding past its deadline."""
        with self.lock:
            failed = [s for s in set(self._submissions.values()) if not s.done() and s.deadline < now]
            for submission in failed:
                submission.error = CommandTimeoutError(f"{self}: commands not completed in time")
        for submission in failed:
            submission.announce()

    def release(self) -> None:
        """Give the ring memory back."""
        self._cq.ring = ffi.NULL
        self._cq_memory = None
        self._rows = np.empty((0, 0), np.uint64)
        self._cid_column = np.empty(0, np.uint16)
        self._cq_rows = np.empty((0, 0), np.uint64)
        self._sq_buffer.release()
        self._cq_buffer.release()


def status_of(psf: int) -> int:
    """15-bit status of a completion's last word."""
    return Psf(psf).status
