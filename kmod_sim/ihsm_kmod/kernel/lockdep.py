# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What all locks have in common, and the checks of how they are used (Linux: kernel/locking/lockdep.c).

A lock's name is its *class*: what is learnt of one lock holds for all of its class. Learnt is in which order classes
are taken and in which contexts, so that a deadlock that could be is reported by a run in which none was.
Not done here, unlike in Linux: orders through interrupts (a lock taken in softirq, inside of which another is taken).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ihsm_kmod.kernel.report import ReportKind, oops, warn, where
from ihsm_kmod.kernel.task import Core, HeldLock, Task, current


@dataclass
class LockClass:
    """What is known of all locks of one name."""

    after: dict[str, str] = field(default_factory=dict)
    """Classes taken while one of this class was held, and where that was seen first."""
    in_hardirq: str = ""
    in_softirq: str = ""
    with_hardirqs: str = ""
    with_softirqs: str = ""
    """Where it was seen: taken in an interrupt handler, in a tasklet, with interrupts on, with tasklets on."""
    reported: set[str] = field(default_factory=set)
    seen: set[tuple[int, int, bool, bool]] = field(default_factory=set)
    """Contexts from which there is nothing more to learn: how deep in interrupts, in tasklets, and which are on."""


class LockGraph:
    """What one kernel has learnt of its locks."""

    def __init__(self, kernel: Core) -> None:
        """Nothing yet."""
        self._classes: dict[str, LockClass] = {}

    def acquire(self, task: Task, lock: Lock, at: str) -> None:
        """Learn that a task is about to wait for a lock, and warn of what that can lead to."""
        with task.kernel.sched.lock:
            findings = self._order(task, lock, at)
            if lock.is_spinning:
                findings += self._contexts(task, lock.name, at)
        for kind, text in findings:
            warn(kind, text)

    def _class(self, name: str) -> LockClass:
        return self._classes.setdefault(name, LockClass())

    def _order(self, task: Task, lock: Lock, at: str) -> list[tuple[ReportKind, str]]:
        findings = []
        for held in task.held_locks:
            before = held.lock.name
            before_class = self._class(before)
            if lock.name in before_class.after:
                continue
            if before == lock.name:
                text = f"a second {lock} taken with the first held since {held.where}; which comes first?"
                findings.append((ReportKind.RECURSIVE_LOCK, text))
            elif path := self._path(lock.name, before):
                steps = ", ".join(f"{then} after {first} at {seen}" for first, then, seen in path)
                findings.append((ReportKind.LOCK_INVERSION, f"{lock} taken after {before}, but elsewhere: {steps}"))
            before_class.after[lock.name] = at
        return findings

    def _path(self, start: str, end: str) -> list[tuple[str, str, str]]:
        """Steps in which classes were taken one inside the other, from `start` to `end`; none if there are none."""
        paths: dict[str, list[tuple[str, str, str]]] = {start: []}
        todo = [start]
        while todo:
            name = todo.pop(0)
            for then, at in self._class(name).after.items():
                if then not in paths:
                    paths[then] = [*paths[name], (name, then, at)]
                    todo.append(then)
        return paths.get(end, [])

    def _contexts(self, task: Task, name: str, at: str) -> list[tuple[ReportKind, str]]:
        known = self._class(name)
        hardirqs_on = not (task.hardirq_depth or task.irqs_disabled)
        softirqs_on = hardirqs_on and not (task.softirq_depth or task.bh_disabled)
        context = (task.hardirq_depth, task.softirq_depth, hardirqs_on, softirqs_on)
        if context in known.seen:
            return []
        known.seen.add(context)
        if task.hardirq_depth:
            known.in_hardirq = known.in_hardirq or at
        elif task.softirq_depth:
            known.in_softirq = known.in_softirq or at
        if hardirqs_on:
            known.with_hardirqs = known.with_hardirqs or at
        if softirqs_on:
            known.with_softirqs = known.with_softirqs or at
        findings = []
        for kind, inside, outside in (
            (ReportKind.HARDIRQ_UNSAFE, known.in_hardirq, known.with_hardirqs),
            (ReportKind.SOFTIRQ_UNSAFE, known.in_softirq, known.with_softirqs),
        ):
            if inside and outside and kind not in known.reported:
                known.reported.add(kind)
                findings.append((kind, f"{name} taken in interrupt at {inside}, with interrupts on at {outside}"))
        return findings


class Lock:
    """A lock that one task can have."""

    is_spinning: ClassVar[bool]
    """Whether who has it must not sleep."""

    def __init__(self, name: str) -> None:
        """`name` is its class."""
        self.name = name
        self.owner: Task | None = None
        self._known: set[tuple[object, ...]] = set()
        """Circumstances in which it was taken, with what held and in which context: the same again teach nothing."""

    def __str__(self) -> str:
        """For reports."""
        return f"{type(self).__name__} {self.name}"

    def take(self) -> None:
        """Wait for the lock and have it."""
        task = current()
        task.kernel.sched.check()
        if self.owner is task and (held := self._held(task)) is not None:
            oops(ReportKind.RECURSIVE_LOCK, f"{self} taken again by the task that has it since {held.where}")
        at = where()
        self._learn(task, at)
        if not self._grab(task, at):
            task.kernel.sched.sleep(lambda: self._grab(task, at), on=self, waits_for=self)

    def try_take(self) -> bool:
        """Have the lock if nobody else does."""
        task = current()
        task.kernel.sched.check()
        return self._grab(task, where())

    def give(self) -> None:
        """Give the lock back. Never fails on a crashed kernel, so that a driver's unwinding ends."""
        task = current()
        sched = task.kernel.sched
        if self.owner is not task and sched.halted is None:
            warn(ReportKind.BAD_UNLOCK, f"{self} given back by {task}, but {self.owner or 'nobody'} has it")
        with sched.lock:
            if self.owner is None:
                return
            holder, self.owner = self.owner, None
            if (held := self._held(holder)) is not None:
                holder.held_locks.remove(held)
                holder.spinlocks_held -= self.is_spinning
            sched.wake(self)

    def _learn(self, task: Task, at: str) -> None:
        """What this taking tells of the lock's class, unless it was taken in the same circumstances before."""
        held = tuple(held.lock.name for held in task.held_locks)
        circumstances = (held, task.hardirq_depth, task.softirq_depth, task.irqs_disabled, task.bh_disabled)
        if circumstances not in self._known:
            task.kernel.part(LockGraph).acquire(task, self, at)
            self._known.add(circumstances)

    def _grab(self, task: Task, at: str) -> bool:
        with task.kernel.sched.lock:
            if self.owner is not None:
                return False
            self.owner = task
            task.held_locks.append(HeldLock(self, at, self.is_spinning))
            task.spinlocks_held += self.is_spinning
            return True

    def _held(self, task: Task) -> HeldLock | None:
        for held in task.held_locks:
            if held.lock is self:
                return held
        return None
