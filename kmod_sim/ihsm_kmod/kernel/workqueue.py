# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Work queues: functions to be run later, by a thread that may sleep (linux/workqueue.h)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from ihsm_kmod.kernel.entry import check_balance
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.kthread import KThread
from ihsm_kmod.kernel.report import ReportKind, crash, might_sleep, warn, where
from ihsm_kmod.kernel.task import Core, Task, current


class Work:
    """A function to be run by a work queue; it never runs twice at the same time."""

    def __init__(self, function: Callable[[], None]) -> None:
        """Not queued."""
        self.function = function
        self.queue: Workqueue | None = None
        """Where it is queued and has not begun."""
        self.owner: Task | None = None
        """The task that runs it."""
        self.cancelling = 0
        self.queued_at = "?"

    def __str__(self) -> str:
        """Its function, for reports."""
        return f"work {getattr(self.function, '__qualname__', self.function)}"

    @property
    def module_name(self) -> str:
        """The Python module of its function."""
        return str(getattr(self.function, "__module__", ""))


class DelayedWork(Work):
    """A work that is queued only after some time."""

    expires: int | None = None
    """The jiffy at which it is due."""


class Workqueue:
    """A queue, and the threads that run what is in it: as many as it takes for no work to wait for another."""

    def __init__(self, kernel: Core, name: str) -> None:
        """Empty, and without a thread."""
        self.name = name
        self._kernel = kernel
        self._sched = kernel.sched
        self._ready: deque[Work] = deque()
        self._delayed: list[DelayedWork] = []
        self._running: list[Work] = []
        self.idle = 0
        """Threads that wait for work."""
        self._workers = 0
        self._is_destroyed = False
        with self._sched.lock:
            kernel.part(Workqueues).all.append(self)

    def __str__(self) -> str:
        """For reports."""
        return f"workqueue {self.name}"

    def add(self, work: Work, delay: int = 0) -> bool:
        """Queue a work, to be run after `delay` jiffies at the earliest; False if it is queued already."""
        self._sched.check()
        with self._sched.lock:
            if work.queue is not None or work.cancelling:
                return False
            work.queue, work.queued_at = self, where()
            if isinstance(work, DelayedWork) and delay > 0:
                work.expires = self._kernel.clock.jiffies + delay
                self._kernel.clock.add_timer(work.expires)
                self._delayed.append(work)
            else:
                self._ready.append(work)
            is_short = self.idle == 0
            self._sched.wake()
        if is_short:
            self._hire()
        return True

    def remove(self, work: Work) -> bool:
        """Take a work out before it begins; False if it is not in."""
        with self._sched.lock:
            if work.queue is not self:
                return False
            work.queue = None
            if isinstance(work, DelayedWork) and work.expires is not None:
                self._disarm(work)
            else:
                self._ready.remove(work)
            self._sched.wake()
            return True

    def works(self) -> Iterator[Work]:
        """All that wait or run."""
        with self._sched.lock:
            works: list[Work] = [*self._ready, *self._delayed, *self._running]
        yield from works

    def destroy(self) -> None:
        """Run what is queued, and end the threads."""
        for work in tuple(self._delayed):
            warn(ReportKind.WORK_PENDING, f"{work} delayed when its {self} is destroyed", work.queued_at)
            self.remove(work)
        self._sched.sleep(lambda: not self._ready and not self._running)
        with self._sched.lock:
            self._is_destroyed = True
            self._kernel.part(Workqueues).all.remove(self)
        self._sched.wake()
        self._sched.sleep(lambda: self._workers == 0)

    def _disarm(self, work: DelayedWork) -> None:
        if work.expires is not None:
            self._kernel.clock.remove_timer(work.expires)
        work.expires = None
        self._delayed.remove(work)

    def _hire(self) -> None:
        with self._sched.lock:
            self._workers += 1
        KThread(self._kernel, self._worker, f"kworker-{self.name}", is_service=True)

    def _worker(self) -> None:
        try:
            while (work := self._next()) is not None:
                self._run(work)
        finally:
            with self._sched.lock:
                self._workers -= 1
            self._sched.wake()

    def _next(self) -> Work | None:
        """Sleep until there is a work, and take it; None when the queue is destroyed."""
        taken: Work | None = None

        def look(due: int | None) -> bool:
            nonlocal taken
            with self._sched.lock:
                taken = self._take()
                return taken is not None or self._is_destroyed or due != self._due()

        while taken is None and not self._is_destroyed:
            with self._sched.lock:
                due = self._due()
                self.idle += 1
            try:
                timeout = None if due is None else max(0, due - self._kernel.clock.jiffies)
                # The work's time is a timer by itself, which is gone as soon as the work is called off.
                self._sched.sleep(
                    lambda due=due: look(due),  # type: ignore[misc]
                    timeout=timeout,
                    interruptible=True,
                    is_timer=False,
                )
            finally:
                with self._sched.lock:
                    self.idle -= 1
                    # Whoever takes a work leaves another thread behind for those that may come before it is done.
                    is_short = self.idle == 0 and bool(self._ready or self._delayed)
            if taken is not None and is_short:
                self._hire()
        return taken

    def _due(self) -> int | None:
        return min((work.expires for work in self._delayed if work.expires is not None), default=None)

    def _take(self) -> Work | None:
        now = self._kernel.clock.jiffies
        for delayed in tuple(self._delayed):
            if delayed.expires is not None and delayed.expires <= now:
                self._disarm(delayed)
                self._ready.append(delayed)
        for work in self._ready:
            if work.owner is None:
                self._ready.remove(work)
                work.queue, work.owner = None, current()
                self._running.append(work)
                return work
        return None

    def _run(self, work: Work) -> None:
        try:
            work.function()
            check_balance(current(), work)
        except Errno as error:
            crash(error)
        finally:
            with self._sched.lock:
                work.owner = None
                self._running.remove(work)
            self._sched.wake()


class Workqueues:
    """All queues of one kernel."""

    def __init__(self, kernel: Core) -> None:
        """None."""
        self.all: list[Workqueue] = []


class SystemWorkqueue(Workqueue):
    """The queue that every kernel has."""

    def __init__(self, kernel: Core) -> None:
        """It is there from the beginning."""
        super().__init__(kernel, "events")


def alloc_workqueue(name: str) -> Workqueue:
    """A queue with threads of its own."""
    return Workqueue(current().kernel, name)


def destroy_workqueue(wq: Workqueue) -> None:
    """Run what is in the queue, and end its threads. Delayed works must have been cancelled."""
    might_sleep()
    wq.destroy()


def queue_work(wq: Workqueue, work: Work) -> bool:
    """Run a work soon; False if it is queued already. Allowed in interrupt."""
    return wq.add(work)


def queue_delayed_work(wq: Workqueue, work: DelayedWork, delay: int) -> bool:
    """Run a work after so many jiffies; False if it is queued already. Allowed in interrupt."""
    return wq.add(work, delay)


def schedule_work(work: Work) -> bool:
    """`queue_work` on the queue that all share."""
    return queue_work(current().kernel.part(SystemWorkqueue), work)


def schedule_delayed_work(work: DelayedWork, delay: int) -> bool:
    """`queue_delayed_work` on the queue that all share."""
    return queue_delayed_work(current().kernel.part(SystemWorkqueue), work, delay)


def cancel_work_sync(work: Work) -> bool:
    """Take a work out of its queue and wait until it does not run; it cannot be queued meanwhile, nor by itself.

    Returns:
        Whether it was queued.
    """
    might_sleep()
    sched = current().kernel.sched
    with sched.lock:
        work.cancelling += 1
        was_queued = work.queue is not None and work.queue.remove(work)
    try:
        sched.sleep(lambda: work.owner is None, waits_for=work)
    finally:
        with sched.lock:
            work.cancelling -= 1
    return was_queued


def cancel_delayed_work_sync(work: DelayedWork) -> bool:
    """The same for a delayed work, whose time has come or not."""
    return cancel_work_sync(work)


def flush_work(work: Work) -> None:
    """Wait until a work that was queued has run. One that is delayed is not waited for."""
    might_sleep()

    def is_through() -> bool:
        now = current().kernel.clock.jiffies
        is_delayed = isinstance(work, DelayedWork) and work.expires is not None and work.expires > now
        return work.owner is None and (work.queue is None or is_delayed)

    current().kernel.sched.sleep(is_through, waits_for=work)
