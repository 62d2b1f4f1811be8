# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Completions from coroutines: the event loop watches the vector and reaps by itself, so that no thread is needed.

While somebody awaits a completion of a line, the loop leads that line whenever there is something to take and no other
leader (`ihsm.driver.completion`), but never while it does other things: a leader keeps everybody else from reaping.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import time
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from ihsm import forks
from ihsm.driver import completion
from ihsm.driver.completion import CompletionLine
from ihsm.driver.queue_pair import QueuePair
from ihsm.driver.submission import Submission

Q = TypeVar("Q", bound=QueuePair)

BUSY_S: Final = 500e-6
"""A polled line is looked at in every round of the loop until it has been quiet for this long, then once in a nap."""

BELL_EVERY: Final = 8
"""A doorbell may cost as much as a submission: of what is submitted in one round of the loop, the first command is
announced at once, so that the device has something to do, then so many together."""

Awaited = asyncio.Future[Submission]
"""Done when the submission in it is."""


async def completed(submission: Submission) -> Any:
    """The result of anything submitted to a queue, without keeping the event loop from anything else.

    Whoever is cancelled while awaiting it leaves the commands to complete by themselves.

    Raises:
        CommandTimeoutError: not completed by the deadline given with the submission; the device may still write to the
            buffers until the queue is recovered or reset.
        QueueClosedError: the queue was closed or reset meanwhile.
        IhsmError: the command failed, or the device is gone.
    """
    if not submission.done():
        await LoopWatch.of(submission.queue.line).expect(submission)
    return submission.conclude()


def future() -> Awaited:
    """One of the running loop."""
    return asyncio.get_running_loop().create_future()


class WaitingForRoom(Protocol):
    """Who waits in this loop for room in a ring, see `ihsm.driver.line_up`."""

    def serve(self) -> None:
        """Submit for whoever there is room for."""

    def expire(self, now: float) -> None:
        """Fail those past their deadlines, as of `time.monotonic`."""

    @property
    def deadline(self) -> float:
        """The earliest of their deadlines, infinite if there are none."""


class _OwnEvent:
    """A descriptor of the loop's own for the vector's eventfd: a loop that is never closed lets go of it as well."""

    __slots__ = ("__weakref__", "_held", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._held = [fd]
        forks.watch(self)

    def close(self) -> None:
        """Once, whichever threads see at the same time that the loop is closed."""
        with contextlib.suppress(IndexError):
            os.close(self._held.pop())

    __del__ = close
    forked = close


class LoopWatch:
    """What one event loop awaits of one line. Used in the loop's thread, but for what ends a submission elsewhere."""

    def __init__(self, line: CompletionLine, loop: asyncio.AbstractEventLoop) -> None:
        """Made by `of`; nothing is watched before something is awaited."""
        self._line = line
        self._loop = loop
        self._awaited: dict[Awaited, Submission] = {}
        self._ended_elsewhere: deque[tuple[Awaited, Submission]] = deque()
        self._line_ups: dict[Hashable, WaitingForRoom] = {}
        self._event: _OwnEvent | None = None
        self._is_running = False
        self._is_reading = False
        self._is_poked = False
        self._is_resting_soon = False
        self._quiet_since = 0.0
        self._busy_until = 0.0
        self._next_look: asyncio.Handle | None = None
        """Of a line that is polled."""
        self._unannounced: list[QueuePair] | None = None
        """Queue of each command that the device has not been told of; None: nothing was submitted in this round."""
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = math.inf

    @classmethod
    def of(cls, line: CompletionLine) -> LoopWatch:
        """The running loop's watch of a line."""
        loop = asyncio.get_running_loop()
        watch: LoopWatch | None = line.watches.get(loop)
        if watch is None:
            for other in list(line.watches.values()):
                if other._loop.is_closed():
                    other._end()
            watch = line.watches[loop] = cls(line, loop)
        return watch

    @property
    def _is_needed(self) -> bool:
        return bool(self._awaited or self._line_ups)

    def expect(self, submission: Submission, awaited: Awaited | None = None) -> Awaited:
        """A future, or the one given, that ends with the submission, or with its deadline's error."""
        self._begin(submission.deadline)
        if awaited is None:
            awaited = self._loop.create_future()
        self._awaited[awaited] = submission
        if self._line.event is None:
            self._busy_until = time.monotonic() + BUSY_S
            self._look_again()
        submission.when_done(partial(self._ended, awaited))
        return awaited

    @staticmethod
    def line_up_of(line: CompletionLine, key: Hashable) -> WaitingForRoom | None:
        """Who waits in the running loop for room under a key, if anybody does."""
        watch: LoopWatch | None = line.watches.get(asyncio.get_running_loop())
        return None if watch is None else watch._line_ups.get(key)

    def join(self, key: Hashable, waiting: WaitingForRoom, deadline: float) -> None:
        """Have `waiting` served whenever the line may have got room, and asked to expire at `deadline`."""
        self._begin(deadline)
        if key not in self._line_ups:
            self._line_ups[key] = waiting
            # Room may have come since the caller looked: nobody tells of what is over.
            self._loop.call_soon(self._look)

    def submit(self, queue: Q, submit: Callable[[Q, float], Submission], left_s: float) -> Submission:
        """Submit one command to a queue of the line that has room; its lock is held.

        The device is told at once or in the same round of the loop.
        """
        if self._unannounced is None:
            self._unannounced = []
            self._loop.call_soon(self._end_round)
            return submit(queue, left_s)
        queue.holds_bell = True
        try:
            submission = submit(queue, left_s)
        finally:
            queue.holds_bell = False
        self._unannounced.append(queue)
        if len(self._unannounced) >= BELL_EVERY:
            self._announce()
        return submission

    def _end_round(self) -> None:
        self._announce()
        self._unannounced = None
        self._rest_if_idle()  # what was submitted may have ended before anybody awaited it

    def _announce(self) -> None:
        if self._unannounced:
            for queue in set(self._unannounced):
                queue.announce()
            self._unannounced.clear()

    def leave(self, key: Hashable) -> None:
        """Nobody waits for room under this key any more."""
        if self._line_ups.pop(key, None) is not None:
            self._rest_if_idle()

    def _begin(self, deadline: float) -> None:
        """Something is awaited from now on."""
        if self._is_running and deadline >= self._alarm_at:
            return
        now = time.monotonic()
        if not self._is_running:
            self._read()
            self._is_running = True
            self._quiet_since = now
            deadline = min(deadline, now + completion.HEALTH_INTERVAL_S)
        if deadline < self._alarm_at:
            self._set_alarm(deadline, now)

    def _read(self) -> None:
        if self._event is None:
            fd = self._line.duplicate_event()
            if fd is None:
                return
            self._event = _OwnEvent(fd)
        self._loop.add_reader(self._event.fd, self._look)
        self._is_reading = True

    def _stop_reading(self) -> None:
        if self._is_reading and self._event is not None:
            self._loop.remove_reader(self._event.fd)
            self._is_reading = False

    def _ended(self, awaited: Awaited, submission: Submission) -> None:
        """A submission is done; called in whichever thread found that."""
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._resolve(awaited, submission)
        else:
            self._ended_elsewhere.append((awaited, submission))
            self._poke()

    def _resolve(self, awaited: Awaited, submission: Submission) -> None:
        if self._awaited.pop(awaited, None) is not None:
            if not awaited.done():
                awaited.set_result(submission)
            self._rest_if_idle()

    def _poke(self) -> None:
        """Have the loop look; in any thread."""
        if not self._is_poked:
            self._is_poked = True
            try:
                self._loop.call_soon_threadsafe(self._look)
            except RuntimeError:  # it has been closed, and nobody awaits anything there any more
                self._end()

    def _look(self) -> None:
        """Take what there is, or leave it to whoever leads."""
        self._is_poked = False
        if not self._is_running:
            return
        self._line.unlisten(self._poke)
        taken = self._line.poll(None if self._event is None else self._event.fd)
        if taken or self._ended_elsewhere:
            self._quiet_since = time.monotonic()
            self._busy_until = self._quiet_since + BUSY_S
        while self._ended_elsewhere:
            self._resolve(*self._ended_elsewhere.popleft())
        follows = taken is None and self._line.listen(self._poke)
        if self._line_ups:
            # Others may take what makes room, and clear the event before this loop sees it.
            self._line.listen(self._poke)
            for waiting in list(self._line_ups.values()):
                waiting.serve()
            self._announce()
        if taken is None and not follows:
            self._poke()  # whoever led has just stepped down
        elif self._line.event is None:
            if not follows:
                self._look_again()
        elif follows:
            # The event stays set until the leader clears it: the loop would do nothing but look.
            self._stop_reading()
        elif not self._is_reading:
            self._read()

    def _look_again(self) -> None:
        """Of a line that is polled: in the loop's next round, or after a nap if nothing comes."""
        if not self._is_needed:
            return
        if time.monotonic() < self._busy_until:
            if isinstance(self._next_look, asyncio.TimerHandle):
                self._next_look.cancel()
                self._next_look = None
            if self._next_look is None:
                self._next_look = self._loop.call_soon(self._look_now)
        elif self._next_look is None:
            self._next_look = self._loop.call_later(completion.LONGEST_NAP_S, self._look_now)

    def _look_now(self) -> None:
        self._next_look = None
        self._look()

    def _set_alarm(self, due: float, now: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_at = due
        # A loop may have a clock of its own, hence the difference.
        self._alarm = self._loop.call_later(max(0.0, due - now), self._ring)

    def _ring(self) -> None:
        """Somebody's time is over, or the device has been quiet for long."""
        self._alarm, self._alarm_at = None, math.inf
        self._look()
        now = time.monotonic()
        for awaited, submission in list(self._awaited.items()):
            if submission.deadline <= now:
                submission.give_up()
                self._resolve(awaited, submission)
        for waiting in list(self._line_ups.values()):
            waiting.expire(now)
        if now - self._quiet_since >= completion.HEALTH_INTERVAL_S:
            self._quiet_since = now
            self._line.check()
            for waiting in list(self._line_ups.values()):
                waiting.serve()
        if self._is_needed:
            deadlines = [submission.deadline for submission in self._awaited.values()]
            deadlines += [waiting.deadline for waiting in self._line_ups.values()]
            self._set_alarm(min(self._quiet_since + completion.HEALTH_INTERVAL_S, *deadlines), now)
        self._rest_if_idle()

    def _rest_if_idle(self) -> None:
        """End the watch unless whoever was just told awaits something more."""
        if not self._is_needed and not self._is_resting_soon:
            self._is_resting_soon = True
            self._loop.call_soon(self._rest)

    def _rest(self) -> None:
        self._is_resting_soon = False
        if not self._is_needed:
            self._end()

    def _end(self) -> None:
        """Let go of the loop; in any thread once it is closed."""
        if self._line.watches.get(self._loop) is not self:
            return
        self._line.watches.pop(self._loop, None)
        self._is_running = False
        self._announce()
        self._line.unlisten(self._poke)
        self._awaited.clear()
        self._line_ups.clear()
        if not self._loop.is_closed():
            self._stop_reading()
            for handle in (self._alarm, self._next_look):
                if handle is not None:
                    handle.cancel()
        if self._event is not None:
            self._event.close()
