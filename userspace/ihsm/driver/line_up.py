# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Room in full rings for coroutines: who came first is served first, and the event loop goes on meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ihsm.arguments import seconds
from ihsm.driver.loop import Awaited, LoopWatch, completed, future
from ihsm.driver.queue_pair import QueuePair
from ihsm.driver.submission import Submission
from ihsm.errors import ArgumentTypeError, IhsmError

Q = TypeVar("Q", bound=QueuePair)
Submit = Callable[[Q, float], Submission]
"""Submits one command to a queue that has room, with so many seconds until it must have completed."""


async def performed(queue: QueuePair, submit: Callable[..., Submission], *, timeout_s: float) -> Any:
    """Submit one command as soon as the ring has room, and await its result.

    Args:
        queue: where `submit` submits to.
        submit: called with `timeout_s`, submits one command, such as `functools.partial(queue.submit_gcm, ...)`.
        timeout_s: seconds until the command must have completed, those in which it waits for room included.

    Raises:
        CommandTimeoutError: not completed, or no room, in time.
        QueueClosedError: the queue was closed or reset meanwhile.
        IhsmError: what `submit` raises, and what `completed` does.
    """
    if not isinstance(queue, QueuePair):
        raise ArgumentTypeError("performed", "queue", f"{type(queue).__name__}, must be a QueuePair")
    queues = (queue,)
    return await performed_by_any(queue, lambda: queues, lambda _, left_s: submit(timeout_s=left_s), timeout_s)


async def performed_by_any(
    key: Hashable, queues_in_turn: Callable[[], Sequence[Q]], submit: Submit[Q], timeout_s: float, count: int = 1
) -> Any:
    """Like `performed`, by the first of several queues that has room; who waits under one `key` is served in order.

    `submit` submits `count` commands, which must fit into the rings.
    """
    deadline = time.monotonic() + seconds("performed", "timeout_s", timeout_s)
    queues = queues_in_turn()
    line_up = LoopWatch.line_up_of(queues[0].line, key)
    if line_up is None:
        submission = _attempt(queues, submit, deadline, count)
        if submission is not None:
            return await completed(submission)
        line_up = LineUp(key, queues_in_turn)
    assert isinstance(line_up, LineUp)
    return (await line_up.add(submit, deadline, count)).conclude()


def _attempt(queues: Sequence[Q], submit: Submit[Q], deadline: float, count: int) -> Submission | None:
    """Submit where there is room; None if there is none, for now."""
    left_s = max(0.0, deadline - time.monotonic())
    for queue in queues:
        if queue.has_room_for(count):
            with queue.lock:  # so that the room is still there
                if queue.has_room_for(count):
                    return LoopWatch.of(queue.line).submit(queue, submit, left_s)
    # Closed ones refuse, and that is the answer if there are no others.
    return None if any(queue.is_open for queue in queues) else submit(queues[0], left_s)


@dataclass(eq=False, slots=True)
class _Place(Generic[Q]):
    """Who waits, and what had failed the queues before."""

    awaited: Awaited
    submit: Submit[Q]
    deadline: float
    count: int
    failures: list[IhsmError | None]


class LineUp(Generic[Q]):
    """Who waits in the running loop for room in any of some queues."""

    def __init__(self, key: Hashable, queues_in_turn: Callable[[], Sequence[Q]]) -> None:
        """Nobody yet."""
        self._key = key
        self._queues_in_turn = queues_in_turn
        self._queues = sorted(queues_in_turn(), key=lambda queue: queue.queue_id)
        self._watches = [LoopWatch.of(line) for line in {queue.line for queue in self._queues}]
        self._places: deque[_Place[Q]] = deque()

    @property
    def deadline(self) -> float:
        """The earliest deadline of those who wait, as of `time.monotonic`; infinite if nobody does."""
        return min((place.deadline for place in self._places), default=float("inf"))

    def add(self, submit: Submit[Q], deadline: float, count: int = 1) -> Awaited:
        """Wait behind the others; the future ends with what is submitted."""
        try:
            for watch in self._watches:
                watch.join(self._key, self, deadline)
        except IhsmError:
            self._leave_if_empty()
            raise
        place = _Place(future(), submit, deadline, count, [queue.failure for queue in self._queues])
        self._places.append(place)
        return place.awaited

    def serve(self) -> None:
        """Submit for those there is room for, oldest first, and turn away those for whom there will be none."""
        while self._places:
            place = self._places[0]
            try:
                # Whoever has been cancelled meanwhile wants nothing any more.
                if not place.awaited.done():
                    submission = _attempt(self._queues_in_turn(), place.submit, place.deadline, place.count)
                    if submission is not None:
                        LoopWatch.of(submission.queue.line).expect(submission, place.awaited)
                    elif self._is_hopeful(place):
                        return
            except Exception as error:
                place.awaited.set_exception(error)
            self._places.popleft()
        self._leave_if_empty()

    def _is_hopeful(self, place: _Place[Q]) -> bool:
        """Whether a queue may get room.

        Raises:
            IhsmError: what failed all of them since: the ids of failed commands stay taken.
        """
        failed: IhsmError | None = None
        for queue, before in zip(self._queues, place.failures, strict=True):
            if queue.is_open:
                if queue.failure is before:
                    return True
                failed = queue.failure
        assert failed is not None
        raise failed

    def expire(self, now: float) -> None:
        """Turn away those whose time is over at a value of `time.monotonic`."""
        for place in [place for place in self._places if place.deadline <= now]:
            self._places.remove(place)
            if not place.awaited.done():
                place.awaited.set_exception(self._queues[0].full())
        self._leave_if_empty()

    def _leave_if_empty(self) -> None:
        if not self._places:
            for watch in self._watches:
                watch.leave(self._key)
