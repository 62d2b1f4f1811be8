# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What was submitted to a queue, and how its result is had: by waiting, or as a future."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from ihsm.arguments import seconds
from ihsm.driver.completion import CompletionLine, Reapable
from ihsm.errors import CommandTimeoutError, IhsmError

if TYPE_CHECKING:
    from concurrent.futures import Future

Collect = Callable[[int, Any], Any]
"""Makes the outcome of a single command from its command id and completion (a named tuple of the CQE's fields), before
the id becomes free; may raise `IhsmError`, which then is the outcome."""


class Held(Protocol):
    """Memory that a submission uses, such as a DmaBuffer."""

    def release(self) -> None:
        """The device no longer uses it."""


class Pending(Protocol):
    """What was submitted to something else than a ring, and has a result some time."""

    def result(self) -> Any:
        """Wait for it; errors as `Submission.result`."""

    async def awaited(self) -> Any:
        """The same, without keeping the event loop from anything else.

        Whoever is cancelled while awaiting it leaves the commands to complete by themselves.
        """


class SubmissionQueue(Reapable, Protocol):
    """The queue of a submission."""

    line: CompletionLine
    lock: Any
    promised: set[Submission]
    """Those with a future that is not complete."""


class Submission:
    """One or more commands submitted together."""

    __slots__ = (
        "_future",
        "_watchers",
        "collect",
        "count",
        "deadline",
        "error",
        "held",
        "outcome",
        "queue",
        "remaining",
    )

    def __init__(
        self,
        queue: SubmissionQueue,
        count: int,
        deadline: float,
        *,
        outcome: Any = None,
        collect: Collect | None = None,
        held: Held | None = None,
    ) -> None:
        """Made by a queue's `submit` methods; `deadline` is a value of `time.monotonic`.

        The outcome of a batch is an array that the queue fills in; that of a single command is made by `collect`.
        """
        self.queue = queue
        self._future: Future[Any] | None = None
        self._watchers: tuple[Callable[[Submission], None], ...] = ()
        self.count = count
        self.remaining = count
        self.outcome = outcome
        self.collect = collect
        self.held = held
        self.error: IhsmError | None = None
        self.deadline = deadline

    def done(self) -> bool:
        """Whether all commands have completed, or the submission has failed."""
        return self.remaining == 0 or self.error is not None

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for all completions; for a batch an array of CQEs in the order of submission.

        Args:
            timeout_s: seconds; None: until the deadline given with the submission.

        Raises:
            CommandTimeoutError: the device may still write to the buffers until the queue is recovered or reset.
            QueueClosedError: the queue was closed or reset meanwhile.
            IhsmError: the command failed, or the device is gone.
        """
        limit_s = self.deadline - time.monotonic() if timeout_s is None else seconds("result", "timeout_s", timeout_s)
        if not self.queue.line.wait(self.done, self.queue, max(0.0, limit_s)):
            if timeout_s is not None:
                raise self._overdue()
            self.give_up()
        return self.conclude()

    def conclude(self) -> Any:
        """The result of what is done; errors as `result`."""
        if self.error is not None:
            raise self.error
        return self.outcome

    def give_up(self) -> None:
        """Fail it unless it is done, for its time is over: the commands go on, but nothing of theirs is collected."""
        with self.queue.lock:
            if self.done():
                return
            self.error = self._overdue()
        self.announce()

    def _overdue(self) -> CommandTimeoutError:
        return CommandTimeoutError(f"{self.queue}: {self.remaining} of {self.count} commands not completed in time")

    def when_done(self, notify: Callable[[Submission], None]) -> None:
        """Have `notify` called once it is done: at once, or by whichever thread ends it.

        Nobody reaps because of this: see `CompletionLine.ensure_thread` and `ihsm.driver.loop`.
        """
        with self.queue.lock:
            if not self.done():
                self._watchers += (notify,)
                return
        notify(self)

    def future(self) -> Future[Any]:
        """The same result as a future, completed by the line's thread; it cannot be cancelled."""
        from concurrent.futures import Future  # most programs wait, or await

        with self.queue.lock:
            if self._future is not None:
                return self._future
            future = self._future = Future()
            future.set_running_or_notify_cancel()
            self.queue.promised.add(self)
        self.when_done(_complete)
        if not future.done():
            self.queue.line.ensure_thread()
        return future

    def announce(self) -> None:
        """Tell those who watch; called once it is done, without locks held."""
        if self._watchers:
            with self.queue.lock:
                watchers, self._watchers = self._watchers, ()
            for notify in watchers:
                notify(self)

    def forked(self, error: IhsmError) -> None:
        """In a child of fork(): fail unless done, and complete the future, whose callbacks are the parent's."""
        if not self.done():
            self.error = error
        self._watchers = ()
        if self._future is not None:
            # A thread of the parent may have held the future's lock.
            self._future._condition = threading.Condition()
            self._future._done_callbacks = []  # type: ignore[attr-defined]
            if not self._future.done():
                _complete(self)

    def let_go(self) -> None:
        """The device no longer uses the held buffer."""
        if self.held is not None:
            self.held.release()


def _complete(submission: Submission) -> None:
    """Complete the future of a submission that is done."""
    future = submission._future
    assert future is not None
    if submission.error is not None:
        future.set_exception(submission.error)
    else:
        future.set_result(submission.outcome)
    submission.queue.promised.discard(submission)


Submitted = Submission | Pending
"""Waited for by its `result`, or in a coroutine by `ihsm.aio.completed`."""
