# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Who sleeps, and how sleepers wake (Linux: kernel/sched/core.c, kernel/hung_task.c).

A kernel has one condition, on which all its tasks sleep. Who changes something that others may be waiting for, changes
it under the condition's lock and wakes all of them; each looks for itself whether it may go on. This costs more than
Linux's many queues, and it makes one place where every task learns that the kernel is no more, so that nothing hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

from ihsm_kmod.kernel.clock import JIFFY_NS, SECOND_NS, Clock
from ihsm_kmod.kernel.errors import ERESTARTSYS, Errno, Oops
from ihsm_kmod.kernel.report import Report, ReportKind, oops
from ihsm_kmod.kernel.task import Blocker, Task, current

JOIN_S: Final = 600.0
"""Real seconds that a thread which never calls into the kernel any more is waited for."""


class Scheduler:
    """All sleepers of one kernel. As a context manager it is the lock under which what they wait for changes."""

    def __init__(self, clock: Clock, hung_task_s: float) -> None:
        """`hung_task_s` is how long a task may sleep uninterruptibly; 0 for any time, as in Linux."""
        self.clock = clock
        self.halted: Report | None = None
        """What ended the kernel."""
        self._hung_ns = round(hung_task_s * SECOND_NS)
        self._condition = threading.Condition()
        self._wakes = 0
        self._on_halt: list[Callable[[], None]] = []
        clock.attach(self)

    def __enter__(self) -> None:
        """Take the lock. Who has it may take it again, and must not call driver code."""
        self._condition.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self._condition.release()

    def wake(self) -> None:
        """Let every sleeper look again whether it may go on."""
        with self._condition:
            self._wakes += 1
            self._condition.notify_all()

    def check(self) -> None:
        """Raise `Oops` if the kernel has ended."""
        if self.halted is not None:
            raise Oops(self.halted)

    def halt(self, report: Report) -> None:
        """End the kernel, every task of it; nothing happens if it has ended."""
        with self._condition:
            if self.halted is not None:
                return
            self.halted = report
            callbacks = list(self._on_halt)
        self.wake()
        for callback in callbacks:
            callback()

    def on_halt(self, callback: Callable[[], None]) -> None:
        """Have it called when the kernel ends, for threads that wait for something else than `sleep`."""
        with self._condition:
            self._on_halt.append(callback)

    def sleep(
        self,
        ready: Callable[[], bool],
        *,
        timeout: int | None = None,
        interruptible: bool = False,
        waits_for: Blocker | None = None,
        is_timer: bool = True,
    ) -> bool:
        """Sleep until `ready`, and return True, or for `timeout` jiffies, and return False.

        The end of the timeout is one of the clock's timers, unless it `is_timer` of something else already.

        `ready` is called without the scheduler's lock, which it takes if it changes what others may be waiting for.

        Raises:
            Errno: ERESTARTSYS, a signal for an interruptible sleeper.
            Oops: the kernel crashed, or this task hangs: it waits for one that waits for it, or for too long.
        """
        self.check()
        if ready():
            return True
        task = current()
        begun_ns = self.clock.now_ns()
        expires = None if timeout is None else self.clock.jiffies + timeout
        expires_ns = None if expires is None else expires * JIFFY_NS
        hung_ns = None if interruptible or not self._hung_ns else begun_ns + self._hung_ns
        look_ns = min((moment for moment in (expires_ns, hung_ns) if moment is not None), default=None)
        with self.clock.timer(expires if is_timer else None):
            while True:
                seen = self._wakes
                self.check()
                # In this order: what came at the last moment came.
                if ready():
                    return True
                if interruptible and task.signalled:
                    raise Errno(ERESTARTSYS)
                now_ns = self.clock.now_ns()
                if look_ns is not None and now_ns >= look_ns:
                    if look_ns == expires_ns:
                        return False
                    self._hung(task, f"for more than {self._hung_ns / SECOND_NS:g} s", waits_for)
                self._wait(task, seen, look_ns, waits_for, may_hang=not interruptible)

    def _wait(self, task: Task, seen: int, look_ns: int | None, waits_for: Blocker | None, *, may_hang: bool) -> None:
        """Until somebody wakes since `seen`, or the clock shows `look_ns`."""
        with self._condition:
            if self._wakes != seen:
                return
            task.waits_for = waits_for
            try:
                cycle = _cycle(task)
                if not cycle:
                    since_s = time.monotonic()
                    self._condition.wait(self.clock.look_after_s(look_ns))
                    is_stuck = may_hang and self._wakes == seen and self.clock.has_stopped(since_s)
            finally:
                task.waits_for = None
        if cycle:
            oops(ReportKind.DEADLOCK, cycle)
        if is_stuck:
            self._hung(task, "and nobody moves the clock", waits_for)

    def _hung(self, task: Task, how: str, waits_for: Blocker | None) -> None:
        text = f"{task} sleeps {how}"
        if waits_for is not None:
            text += f", for {waits_for}, which {waits_for.owner or 'nobody'} has"
        oops(ReportKind.HUNG_TASK, text)


def _cycle(task: Task) -> str:
    """What to say if tasks wait for each other, and `task` is one of them; else nothing."""
    chain = [task]
    while (blocker := chain[-1].waits_for) is not None and (owner := blocker.owner) is not None:
        owner = owner.innermost
        if owner is task:
            return ", ".join(f"{one} waits for {one.waits_for}{_since(one.waits_for)}" for one in chain)
        if owner in chain:
            # A circle of others, which one of them reports.
            break
        chain.append(owner)
    return ""


def _since(blocker: Blocker | None) -> str:
    """Where the lock that is waited for was taken."""
    owner = blocker.owner if blocker else None
    held = next((held for held in owner.held_locks if held.lock is blocker), None) if owner else None
    return f" (which {owner} took at {held.where})" if held else f" (which is {owner})"


def cond_resched() -> None:
    """Let others run (linux/sched.h). Called in every loop that polls: on a crashed kernel it ends with an `Oops`."""
    current().kernel.sched.check()
