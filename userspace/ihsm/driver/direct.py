# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The short way of a command whose caller waits for it: one call into C, from the entry to the completion.

It is taken where nobody else takes completions just then and the doorbells are mapped. A command that does not complete
within the time for which a caller may look at the ring, or not as the next one, is a submission like any other from
there on; so deadlines, failures and recovery know nothing of this.
"""

from __future__ import annotations

import threading
from types import TracebackType

from ihsm._native import ffi, lib
from ihsm.driver.doorbells import Doorbells
from ihsm.driver.rings import CompletionRing, RingFormat, SubmissionRing
from ihsm_abi.doorbells import POLLER_ASLEEP_OFFSET


class QueueLock:
    """A queue's lock: reentrant, and whoever has it while looking at the ring learns that another wants it."""

    __slots__ = ("_lock", "acquire", "release", "wanted")

    def __init__(self) -> None:
        """Free."""
        self._lock = threading.RLock()
        self.wanted = ffi.new("uint32_t *")
        """1 from the time on that somebody waits for it; whoever gives it up early for that clears it."""
        self.acquire = self._lock.acquire
        """Without telling anybody: for those who do not wait."""
        self.release = self._lock.release

    def __enter__(self) -> None:
        """Take it."""
        if not self.acquire(blocking=False):
            self.wanted[0] = 1
            self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self.release()


class Direct:
    """The short way over the rings of one queue; used under the queue's lock."""

    __slots__ = ("_cqe", "_held", "_sq", "_state", "_wanted")

    def __init__(
        self, ring: RingFormat, sq: SubmissionRing, cq: CompletionRing, bells: Doorbells, lock: QueueLock
    ) -> None:
        """For doorbells that are mapped."""
        page = bells.page
        assert page is not None
        self._sq = sq
        self._wanted = lock.wanted
        self._state = state = ffi.new("struct ihsm_direct *")
        self._cqe = ffi.buffer(state.cqe, ring.cqe.itemsize)
        entries = ffi.from_buffer("uint8_t[]", sq.memory, require_writable=True)
        self._held = (entries, page)
        state.cq, state.sq, state.page = cq.pointer, entries, page
        state.sqe_bytes = ring.sqe.itemsize
        state.bell = sq.bell
        state.asleep_offset = POLLER_ASLEEP_OFFSET
        state.kick = -1 if bells.event is None else bells.event
        assert ring.cqe.fields is not None
        state.entries = sq.entries
        state.cqe_cid = ring.cqe.fields[ring.cid][1]
        state.cqe_sqhd = ring.cqe.fields["sqhd"][1]
        state.wanted = lock.wanted

    def exchange(self, entry: bytes, cid: int, spin_ns: int) -> None:
        """Write an entry where there is room, announce it, and look for its completion; ValueError if it has another size.

        A signal's handler may raise out of this: `begun` and `completion` tell all the same what has come of the command.
        """
        sq, state = self._sq, self._state
        state.started_ns = 0
        slot, tail = sq.next_slots(entry)
        try:
            lib.ihsm_exchange(state, entry, slot, tail, cid, spin_ns)
        finally:
            if state.started_ns:
                sq.announced(tail)

    @property
    def begun(self) -> bool:
        """Whether the last exchange reached the device."""
        return self._state.started_ns != 0

    @property
    def completion(self) -> bytes | None:
        """That of the last exchange that has begun; None: the device has the command still."""
        return self._cqe[:] if self._state.taken else None

    @property
    def started_s(self) -> float:
        """When the last exchange began, as of `time.monotonic`."""
        return self._state.started_ns / 1e9

    def give_way(self) -> None:
        """Whoever wanted the queue gets it now."""
        self._wanted[0] = 0
