# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Who sleeps, and how sleepers wake (Linux: kernel/sched/core.c, kernel/hung_task.c).

A kernel has one lock. Who changes something that others may be waiting for, changes it under that lock and wakes those
who sleep on it, or all; each looks for itself whether it may go on. So there is one place where every task learns that
the kernel is no more, and nothing hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from ihsm_kmod.kernel.clock import JIFFY_NS, SECOND_NS, Clock
from ihsm_kmod.kernel.errors import ERESTARTSYS, Errno, Oops
from ihsm_kmod.kernel.report import Report, ReportKind, oops
from ihsm_kmod.kernel.task import Blocker, Task, current

JOIN_S: Final = 600.0
"""Real seconds that a thread which never calls into the kernel any more is waited for."""


class _Sleeper:
    """One task that sleeps."""

    def __init__(self) -> None:
        self.is_woken = False
        self.is_asleep = False
        """Whether it waits and nobody has woken it."""
        self._gate = threading.Lock()
        """Open while it is woken, and has not gone through."""
        self._gate.acquire()

    def wake(self) -> None:
        """Let it look again; under the scheduler's lock."""
        if not self.is_woken:
            self.is_woken, self.is_asleep = True, False
            self._gate.release()

    def lie_down(self) -> None:
        """It is about to look; who wakes it from here on makes it look again. Under the scheduler's lock."""
        self.is_woken = False
        self._gate.acquire(blocking=False)

    def wait(self, timeout_s: float | None) -> None:
        """Until it is woken, at most so long."""
        self._gate.acquire(timeout=-1 if timeout_s is None else timeout_s)


class Scheduler:
    """All sleepers of one kernel."""

    def __init__(self, clock: Clock, hung_task_s: float) -> None:
        """`hung_task_s` is how long a task may sleep uninterruptibly; 0 for any time, as in Linux."""
        self.clock = clock
        self.lock = threading.RLock()
        """Under it what sleepers wait for changes. Who has it may take it again, and must not call driver code."""
        self.halted: Report | None = None
        """What ended the kernel."""
        self._hung_ns = round(hung_task_s * SECOND_NS)
        self._sleepers: dict[int, list[_Sleeper]] = {}
        """By the identity of what each sleeps on."""
        self._on_halt: list[Callable[[], None]] = []
        clock.attach(self)

    def wake(self, on: object = None) -> None:
        """Let every sleeper look again whether it may go on, or only those that sleep on one thing."""
        if on is not None and id(on) not in self._sleepers:
            return  # who comes to sleep on it now, looks before it does
        with self.lock:
            for sleepers in self._sleepers.values() if on is None else (self._sleepers.get(id(on), ()),):
                for sleeper in sleepers:
                    sleeper.wake()

    @property
    def asleep(self) -> int:
        """How many tasks sleep, and nothing has happened that any of them would look at."""
        with self.lock:
            return sum(sleeper.is_asleep for sleepers in self._sleepers.values() for sleeper in sleepers)

    def check(self) -> None:
        """Raise `Oops` if the kernel has ended."""
        if self.halted is not None:
            raise Oops(self.halted)

    def halt(self, report: Report) -> None:
        """End the kernel, every task of it; nothing happens if it has ended."""
        with self.lock:
            if self.halted is not None:
                return
            self.halted = report
            callbacks = list(self._on_halt)
        self.wake()
        for callback in callbacks:
            callback()

    def on_halt(self, callback: Callable[[], None]) -> None:
        """Have it called when the kernel ends, for threads that wait for something else than `sleep`."""
        with self.lock:
            self._on_halt.append(callback)

    def sleep(
        self,
        ready: Callable[[], bool],
        *,
        on: object = None,
        timeout: int | None = None,
        interruptible: bool = False,
        waits_for: Blocker | None = None,
        is_timer: bool = True,
    ) -> bool:
        """Sleep until `ready`, and return True, or for `timeout` jiffies, and return False.

        Who changes what `ready` depends on wakes those who sleep `on` it; where that is None, all.
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
        expires = None if timeout is None else begun_ns // JIFFY_NS + timeout
        expires_ns = None if expires is None else expires * JIFFY_NS
        hung_ns = None if interruptible or not self._hung_ns else begun_ns + self._hung_ns
        look_ns = expires_ns if hung_ns is None or (expires_ns is not None and expires_ns < hung_ns) else hung_ns
        timer = expires if is_timer else None
        sleeper = _Sleeper()
        with self.lock:
            self._sleepers.setdefault(id(on), []).append(sleeper)
        if timer is not None:
            self.clock.add_timer(timer)
        try:
            while True:
                if sleeper.is_woken:
                    with self.lock:
                        sleeper.lie_down()
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
                self._wait(task, sleeper, look_ns, waits_for, may_hang=not interruptible)
        finally:
            if timer is not None:
                self.clock.remove_timer(timer)
            with self.lock:
                sleepers = self._sleepers[id(on)]
                sleepers.remove(sleeper)
                if not sleepers:
                    del self._sleepers[id(on)]

    def _wait(
        self, task: Task, sleeper: _Sleeper, look_ns: int | None, waits_for: Blocker | None, *, may_hang: bool
    ) -> None:
        """Until somebody wakes the sleeper, or the clock shows `look_ns`."""
        with self.lock:
            task.waits_for = waits_for
            cycle = _cycle(task)
            sleeper.is_asleep = not sleeper.is_woken
        try:
            if cycle:
                oops(ReportKind.DEADLOCK, cycle)
            since_s = time.monotonic()
            sleeper.wait(self.clock.look_after_s(look_ns))
            if may_hang and not sleeper.is_woken and self.clock.has_stopped(since_s):
                self._hung(task, "and nobody moves the clock", waits_for)
        finally:
            task.waits_for, sleeper.is_asleep = None, False

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
