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

from ihsm import _native
from ihsm._native import ffi
from ihsm.driver.command_ids import CommandIds
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

    __slots__ = ("_page", "_wanted", "completion", "state")

    def __init__(
        self,
        ring: RingFormat,
        sq: SubmissionRing,
        cq: CompletionRing,
        ids: CommandIds,
        bells: Doorbells,
        lock: QueueLock,
    ) -> None:
        """For doorbells that are mapped; rings and ids outlive this."""
        page = bells.page
        assert page is not None
        assert ring.cqe.fields is not None
        self._page: _native.Pointer[_native.uint8_t] | None = page  # C has but the addresses
        self._wanted = lock.wanted
        self.state: _native.ihsm_direct_pointer = ffi.new("struct ihsm_direct *")
        """As C sees it: `lib.ihsm_exchange` takes it, and leaves `outcome` in it even if a signal's handler raises."""
        state = self.state
        self.completion = memoryview(ffi.buffer(state.cqe, ring.cqe.itemsize))
        """That of the command that was taken last; the next one overwrites it."""
        state.sq, state.cq, state.ids, state.page, state.wanted = sq.pointer, cq.pointer, ids.pointer, page, lock.wanted
        state.sq_bell, state.cq_bell = sq.bell, cq.bell
        state.asleep_offset = POLLER_ASLEEP_OFFSET
        state.kick = -1 if bells.event is None else bells.event
        state.cqe_cid = ring.cqe.fields[ring.cid][1]
        state.cqe_sqhd = ring.cqe.fields["sqhd"][1]

    @property
    def started_s(self) -> float:
        """When the last command was written, as of `time.monotonic`."""
        return self.state.started_ns / 1e9

    def close(self) -> None:
        """Let go of the page, so that the function can unmap it, whoever has this still: an error's traceback may."""
        self._page, self.state.page = None, ffi.NULL

    def give_way(self) -> None:
        """Whoever wanted the queue gets it now."""
        self._wanted[0] = 0
