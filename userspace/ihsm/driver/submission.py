# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What was submitted to a queue, and how its result is had: by waiting, or as a future."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Protocol

from ihsm.arguments import seconds
from ihsm.driver.completion import CompletionLine, Reapable
from ihsm.errors import CommandTimeoutError, IhsmError

Collect = Callable[[int, Any], Any]
"""Makes the outcome of a single command from its command id and completion (a named tuple of the CQE's fields), before
the id becomes free; may raise `IhsmError`, which then is the outcome."""


class Held(Protocol):
    """Memory that a submission uses, such as a DmaBuffer."""

    def release(self) -> None:
        """The device no longer uses it."""


class SubmissionQueue(Reapable, Protocol):
    """The queue of a submission."""

    line: CompletionLine
    lock: Any
    promised: set[Submission]
    """Those with a future that is not complete."""


class Submission:
    """One or more commands submitted together."""

    __slots__ = ("_future", "_queue", "collect", "count", "deadline", "error", "held", "outcome", "remaining")

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
        self._queue = queue
        self._future: Future[Any] | None = None
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
        if not self._queue.line.wait(self.done, self._queue, max(0.0, limit_s)):
            late = CommandTimeoutError(
                f"{self._queue}: {self.remaining} of {self.count} commands not completed in time"
            )
            if timeout_s is not None:
                raise late
            with self._queue.lock:  # this was the last word: nothing may be collected afterwards
                if not self.done():
                    self.error = late
        if self.error is not None:
            raise self.error
        return self.outcome

    def future(self) -> Future[Any]:
        """The same result as a future, completed by the line's thread; it cannot be cancelled."""
        with self._queue.lock:
            if self._future is not None:
                return self._future
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()
            self._queue.promised.add(self)
            self._future = future
            finished = self.done()
        if finished:
            self.announce()
        else:
            self._queue.line.ensure_thread()
        return future

    def announce(self) -> None:
        """Complete the future, if one was asked for; called once it is done, without locks held."""
        future = self._future
        if future is None:
            return
        try:
            if self.error is not None:
                future.set_exception(self.error)
            else:
                future.set_result(self.outcome)
        except InvalidStateError:
            return  # it was announced before: as timed out, or by whoever asked for the future at this moment
        self._queue.promised.discard(self)

    def forked(self, error: IhsmError) -> None:
        """In a child of fork(): fail unless done, and complete the future, whose callbacks are the parent's."""
        if not self.done():
            self.error = error
        if self._future is not None:
            # A thread of the parent may have held the future's lock.
            self._future._condition = threading.Condition()
            self._future._done_callbacks = []  # type: ignore[attr-defined]
            self.announce()

    def let_go(self) -> None:
        """The device no longer uses the held buffer."""
        if self.held is not None:
            self.held.release()
