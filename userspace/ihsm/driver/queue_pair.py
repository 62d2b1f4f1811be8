# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A queue pair: commands go into its submission ring, completions out of its completion ring end them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ihsm import forks
from ihsm._native import lib
from ihsm.arguments import seconds
from ihsm.bus import DmaArena
from ihsm.driver.completion import CompletionLine
from ihsm.driver.direct import Direct, QueueLock
from ihsm.driver.doorbells import Doorbells
from ihsm.driver.outstanding import Outstanding
from ihsm.driver.records import as_rows
from ihsm.driver.rings import CompletionRing, RingFormat, SubmissionRing
from ihsm.driver.submission import Collect, Held, Submission
from ihsm.errors import (
    ArgumentError,
    BusError,
    CommandTimeoutError,
    DriverError,
    ForkedError,
    IhsmError,
    QueueClosedError,
    QueueProtocolError,
)
from ihsm.fast_path import FastPathSession
from ihsm_abi import doorbells

MIN_ENTRIES: Final = 2
MAX_ENTRIES: Final = 65536

_NOTHING, _PENDING, _TAKEN = lib.IHSM_NOTHING, lib.IHSM_PENDING, lib.IHSM_TAKEN
_OPEN: Final = object()
"""In the place of a result that there is not yet."""


@dataclass(slots=True)
class LentRings:
    """Both rings of a queue for a loop of the borrower's own, see `QueuePair.lent`."""

    sq: NDArray[np.uint8]
    cq: NDArray[np.uint8]
    tail: int
    head: int
    phase: int


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
        if not MIN_ENTRIES <= entries <= MAX_ENTRIES:
            problem = f"{entries} entries in a ring, {MIN_ENTRIES} to {MAX_ENTRIES} possible"
            raise ArgumentError(type(self).__name__, "entries", problem)
        self.ring = ring
        self.queue_id = queue_id
        self.entries = entries
        self.line = line
        self.lock = QueueLock()
        self.promised: set[Submission] = set()
        """Submissions with a future that is not complete."""
        self._open = False
        self._forked = False
        self._is_released = False
        self.holds_bell = False
        """Set under `lock` around a single submission: the device is to be told later, see `announce`."""
        self.failure: IhsmError | None = None
        """What failed everything outstanding last."""
        self._sq = SubmissionRing(ring, entries, arena, bells, doorbells.sq_tail_offset(queue_id))
        self._cq = CompletionRing(ring, entries, arena, bells, doorbells.cq_head_offset(queue_id))
        self._outstanding = Outstanding(str(self), ring, entries)
        self._ids = self._outstanding.ids
        self._direct: Direct | None = None
        if bells.page is not None:
            self._direct = Direct(ring, self._sq, self._cq, self._ids, bells, self.lock)
        line.queues.append(self)
        forks.watch(self)

    def forked(self) -> None:
        """In a child of fork(): the rings are the parent's, and what is outstanding is never completed here."""
        self.lock = QueueLock()
        self._open, self._forked = False, True
        self._sq = self._cq = forks.left_behind(str(self))
        self._drop_direct()
        error = ForkedError(f"{self}: wait for a completion")
        for submission in {*self._outstanding.live(), *self.promised}:
            submission.forked(error)

    def __str__(self) -> str:
        """Like `HSM queue 1`."""
        return f"{self.ring.kind} queue {self.queue_id}"

    @property
    def sq_iova(self) -> int:
        """I/O address of the SQ."""
        return self._sq.iova

    @property
    def cq_iova(self) -> int:
        """I/O address of the CQ."""
        return self._cq.iova

    @property
    def doorbell_offsets(self) -> tuple[int, int]:
        """Byte offsets of SQ tail and CQ head in BAR2."""
        return self._sq.bell, self._cq.bell

    @property
    def outstanding(self) -> int:
        """Commands submitted and not completed, those of failed submissions included."""
        return self._ids.used

    @property
    def stray_completions(self) -> int:
        """Completions so far whose command id was not outstanding."""
        return self._outstanding.strays

    @property
    def is_open(self) -> bool:
        """Whether submissions are accepted."""
        return self._open

    @property
    def room(self) -> int:
        """Commands that would be accepted without waiting, if the queue is open."""
        return min(self._ids.free, self._sq.room)

    @property
    def has_room(self) -> bool:
        """Whether a command would be accepted without waiting."""
        return self._open and self.room > 0

    def has_room_for(self, count: int) -> bool:
        """Whether so many commands would be accepted without waiting."""
        return self._open and self.room >= count

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
            self._sq.clear()
            self._cq.clear()
            self._cq.resume(0, 1)
            self.restart_sq()

    def restart_sq(self) -> None:
        """State after DELETE_SQ and CREATE_SQ: tail and head 0, all command ids free; the CQ goes on (spec 01 §8.2)."""
        with self.lock:
            self._sq.resume(0)
            self._outstanding.forget()

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
                problem = f"{self.outstanding} commands are outstanding, none may be"
                raise ArgumentError("QueuePair.lent", "queue", f"{self}: {problem}")
            self._open = False
            rings = LentRings(self._sq.memory, self._cq.memory, self._sq.tail, self._cq.head, self._cq.phase)
        yield rings
        with self.lock:
            if self._forked:
                raise ForkedError(f"{self}: lent rings")
            self._sq.resume(rings.tail)
            self._cq.resume(rings.head, rings.phase)
            self._open = True

    def submit(
        self,
        entries: NDArray[np.void],
        timeout_s: float,
        held: Held | None = None,
        session: FastPathSession | None = None,
    ) -> Submission:
        """Submit a batch of SQEs with one doorbell; command ids are filled in by the queue.

        A full ring is waited for, and a batch that does not fit is submitted in parts; so `timeout_s` bounds this call
        as well as the completion of the whole batch. The result is an array of CQEs in the order of the SQEs.

        Args:
            entries: one-dimensional array of SQEs of this ring's size; copied, so it may be used again.
            timeout_s: seconds.
            held: released once the device no longer uses it: all commands completed, or the queue is gone, or this
                raises and nothing was submitted.
            session: whose ids the entries have; None: nobody sees to it that it still is theirs.

        Raises:
            SessionClosedError: `session` has ended.
            CommandTimeoutError: no room in time; what was submitted before is still outstanding.
            QueueClosedError: the queue is closed.
            ForkedError: it is the parent's.
        """
        timeout_s = seconds("QueuePair.submit", "timeout_s", timeout_s)
        rows = as_rows(entries, self.ring.sqe.itemsize)
        outcome = np.zeros(len(rows), self.ring.cqe)
        completions = as_rows(outcome, self.ring.cqe.itemsize)
        submission = Submission(self, len(rows), time.monotonic() + timeout_s, outcome=outcome, held=held)
        start = 0
        try:
            while start < len(rows):
                with self.lock:
                    self._check_open()
                    if session is not None:
                        session.check()
                    count = min(self.room, len(rows) - start)
                    if count:
                        cids = self._outstanding.begin_batch(count, submission, completions, start)
                        self._sq.write_many(rows[start : start + count], cids)
                        self._sq.announce()
                if not count:
                    self._wait_for_room(
                        submission, min(len(rows) - start, max(1, self.entries // 4)), len(rows) - start
                    )
                start += count
        except BaseException:
            with self.lock:
                submission.remaining -= len(rows) - start  # the rest will never complete
                if not submission.remaining:
                    submission.let_go()
            raise
        return submission

    def carry_out(
        self, build: Callable[[int], bytes], collect: Collect, timeout_s: float, held: Held | None = None
    ) -> Any:
        """Submit one SQE as `submit_one`, and wait for its result as `Submission.result`; errors as theirs."""
        line, direct = self.line, self._direct
        submission: Submission | None = None
        if direct is not None and line.spin_ns and type(timeout_s) in (float, int) and timeout_s == timeout_s:
            leader = line.leader
            if leader.acquire(blocking=False):
                try:
                    if self.lock.acquire(blocking=False):
                        try:
                            submission, outcome = self._exchange(direct, build, collect, timeout_s, held)
                        finally:
                            self.lock.release()
                        if outcome is not _OPEN:
                            return outcome
                finally:
                    if self._ids.used or len(line.queues) > 1:
                        line.reap()
                    leader.release()
                    line.wake()
        if submission is None:
            submission = self.submit_one(build, collect, timeout_s, held)
        return submission.result()

    def _exchange(
        self, direct: Direct, build: Callable[[int], bytes], collect: Collect, timeout_s: float, held: Held | None
    ) -> tuple[Submission | None, Any]:
        """The short way, of the leader under the lock: what is to be awaited, if anything was sent, or a result."""
        cid, state = self._ids.next, direct.state
        if cid is None or not self._open:
            return None, _OPEN
        submission: Submission | None = None
        is_over, state.outcome = True, _NOTHING
        try:
            entry = build(cid)
            self._sq.check(entry)
            try:
                lib.ihsm_exchange(state, entry, cid, self.line.spin_ns)
            finally:  # a signal's handler may have raised
                if state.outcome == _PENDING:
                    submission = Submission(self, 1, direct.started_s + timeout_s, collect=collect, held=held)
                    self._outstanding.begin(cid, submission)
                    direct.give_way()
            if state.outcome == _TAKEN:
                return None, collect(cid, self._outstanding.fields_of(direct.completion))
            is_over = False
            return submission, _OPEN
        finally:
            if held is not None and is_over and submission is None:
                held.release()

    def submit_one(
        self, build: Callable[[int], bytes], collect: Collect, timeout_s: float, held: Held | None = None
    ) -> Submission:
        """Submit one SQE, made by `build(cid)` once a command id is free; otherwise like `submit`.

        What `build` raises is raised here, and nothing has been submitted.
        """
        if type(timeout_s) not in (float, int) or timeout_s != timeout_s:
            try:
                timeout_s = seconds("QueuePair.submit_one", "timeout_s", timeout_s)
            except IhsmError:
                if held is not None:
                    held.release()
                raise
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
            if not self._ids.free or not self._sq.room:
                return False
            cid = self._ids.take()
            try:
                self._sq.write(build(cid))
            except BaseException:
                self._ids.give_back(cid)
                submission.let_go()
                raise
            self._outstanding.begin(cid, submission)
            self._cq.assure(self._ids.used)
            if not self.holds_bell:
                self._sq.announce()
            return True

    def announce(self) -> None:
        """Have the device know of what was submitted with `holds_bell`."""
        with self.lock:
            if self._open:
                self._sq.announce_rest()

    def _check_open(self) -> None:
        if not self._open:
            raise ForkedError(f"{self}: submit") if self._forked else QueueClosedError(f"{self} is closed")

    def _wait_for_room(self, submission: Submission, wanted: int = 1, unsent: int = 1) -> None:
        """Wait for room for a command, or for `wanted` as long as others of the submission are with the device."""
        self.announce()  # what the device does not know of makes no room
        before = self.failure
        timeout_s = submission.deadline - time.monotonic()

        def over() -> bool:
            room = self.room
            enough = room >= wanted or (room > 0 and submission.remaining <= unsent)
            return enough or not self._open or self.failure is not before

        if not self.line.wait(over, self, max(0.0, timeout_s)):
            raise self.full()
        if submission.error is not None:
            raise submission.error
        if self._open and self.failure is not None and self.failure is not before:
            raise self.failure  # whose ids stay taken: there will be no room

    def full(self) -> CommandTimeoutError:
        """What somebody is told who has waited for room for too long."""
        return CommandTimeoutError(f"{self}: no room in the ring of {self.entries} entries in time")

    def spin(self, spin_ns: int) -> None:
        """Look at the ring, without the interpreter lock, until an entry is there: of batches alone, several."""
        self._cq.spin(spin_ns, max(1, self._ids.used // 2) if self._outstanding.are_batches else 1)

    def reap(self) -> int:
        """Take all new completions; safe from any thread, but meant for the leader of the line."""
        done: list[Submission] = []
        with self.lock:
            # An event loop may come to look after the queue has gone.
            count = 0 if self._is_released else self._cq.ready()
            if not count:
                return 0
            if count == 1:
                newest = self._outstanding.complete(self._cq.take(), done)
            else:
                newest = self._outstanding.complete_many(self._cq.take_many(count), done)
            possible = self._sq.fetched(newest.sqhd)
            self._cq.acknowledge(count)
        if not possible:
            self.fail(QueueProtocolError(f"{self}: SQ head {newest.sqhd} in a completion of a ring of {self.entries}"))
        for submission in done:
            submission.announce()
        return count

    def fail(self, error: IhsmError) -> None:
        """Fail everything outstanding; the command ids stay taken until the device completes or forgets them."""
        self.failure = error
        with self.lock:
            failed = self._outstanding.fail(error)
        for submission in failed:
            submission.announce()

    def expire(self, now: float) -> None:
        """Fail what is outstanding past its deadline."""
        with self.lock:
            failed = self._outstanding.fail(CommandTimeoutError(f"{self}: commands not completed in time"), now)
        for submission in failed:
            submission.announce()

    def release(self) -> None:
        """Give the ring memory back, and let go of the doorbells."""
        with self.lock:
            self._is_released = True
            self._drop_direct()
            self._sq.release()
            self._cq.release()

    def _drop_direct(self) -> None:
        direct, self._direct = self._direct, None
        if direct is not None:
            direct.close()
