# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Tasks: what runs kernel code, and in which context it does (linux/sched.h, linux/preempt.h).

Every thread that runs kernel code does so as a task, for the length of one call: a system call, a work, an interrupt.
`current()` is that task, and what it belongs to says which kernel a function works on.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from ihsm_kmod.kernel.address_space import AddressSpace
from ihsm_kmod.kernel.clock import Clock
from ihsm_kmod.kernel.reports import Report

P = TypeVar("P")


class Blocker(Protocol):
    """Something that one task has and others wait for: a lock, a work that runs, a thread that is to end."""

    @property
    def owner(self) -> Task | None:
        """Who has it, None if nobody does."""

    def __str__(self) -> str:
        """What it is, for a report."""


class NamedBlocker(Blocker, Protocol):
    """A lock, whose name is its class."""

    @property
    def name(self) -> str:
        """The class."""


class HeldLock(NamedTuple):
    """A lock that a task has, and where it took it."""

    lock: NamedBlocker
    where: str
    is_atomic: bool
    """Whether the task must not sleep until it gives it back."""


class Program(Protocol):
    """A process, as far as its tasks tell of it."""

    @property
    def tgid(self) -> int:
        """Its id."""

    @property
    def mm(self) -> AddressSpace:
        """Its memory."""


class Sched(Protocol):
    """What all use of the scheduler (sched.py)."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Under it what sleepers wait for changes. Who has it may take it again, and must not call driver code."""

    @property
    def halted(self) -> Report | None:
        """What ended the kernel, None while it runs."""

    @property
    def asleep(self) -> int:
        """How many tasks sleep, and nothing has happened that any of them would look at."""

    def wake(self, on: object = None) -> None:
        """Let every sleeper look again whether it may go on, or only those that sleep on one thing."""

    def check(self) -> None:
        """Raise `Oops` if the kernel has ended."""

    def halt(self, report: Report) -> None:
        """End the kernel."""

    def on_halt(self, callback: Callable[[], None]) -> None:
        """Have it called when the kernel ends."""

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
        """Sleep until `ready`."""


class Core:
    """A kernel as its parts know it, which do not know each other by name: each asks for those that it needs."""

    sched: Sched

    def __init__(self, clock: Clock, *, dma: Literal["shared", "strict"], panic_on_warn: bool) -> None:
        """Nothing but time."""
        self.clock = clock
        self.dma = dma
        self.panic_on_warn = panic_on_warn
        self.reports: list[Report] = []
        self._pids = itertools.count(1)
        self._parts: dict[object, Any] = {}

    def next_pid(self) -> int:
        """A number for a task or a process."""
        return next(self._pids)

    def part(self, kind: Callable[[Core], P]) -> P:
        """This kernel's one object of a class, which is made by the first who asks."""
        if kind not in self._parts:
            with self.sched.lock:
                if kind not in self._parts:
                    self._parts[kind] = kind(self)
        found: P = self._parts[kind]
        return found


class Task:
    """One task of a kernel (Linux: struct task_struct)."""

    def __init__(self, kernel: Core, comm: str, process: Program | None = None, pid: int | None = None) -> None:
        """A task of a process, or of the kernel's own; `pid` where it is known."""
        self.kernel = kernel
        self.comm = comm
        self.process = process
        self.pid = kernel.next_pid() if pid is None else pid
        self.tgid: int = process.tgid if process else self.pid
        self.mm: AddressSpace | None = process.mm if process else None
        self.hardirq_depth = 0
        self.softirq_depth = 0
        self.bh_disabled = 0
        self.irqs_disabled = False
        self.held_locks: list[HeldLock] = []
        self.spinlocks_held = 0
        self.waits_for: Blocker | None = None
        self.signalled = False
        self.inner: Task | None = None
        """The task that this one's thread runs meanwhile: a test may make a system call from within `Kernel.run`."""

    def __str__(self) -> str:
        """As in Linux's reports."""
        return f"{self.comm}/{self.pid}"

    @property
    def innermost(self) -> Task:
        """The task that this one's thread runs now."""
        task = self
        while task.inner is not None:
            task = task.inner
        return task

    @property
    def is_atomic(self) -> bool:
        """Whether it must not sleep now."""
        return bool(
            self.hardirq_depth or self.softirq_depth or self.bh_disabled or self.irqs_disabled or self.spinlocks_held
        )

    def hardirq(self) -> _Interrupting:
        """Run a block as an interrupt handler, with interrupts disabled."""
        return _Interrupting(self, hardirq=1)

    def softirq(self) -> _Interrupting:
        """Run a block as a tasklet."""
        return _Interrupting(self, softirq=1)


class _Interrupting:
    """`with task.hardirq():`; a generator would be shorter, and take longer than many a handler."""

    def __init__(self, task: Task, *, hardirq: int = 0, softirq: int = 0) -> None:
        self._task = task
        self._hardirq = hardirq
        self._softirq = softirq
        self._flags = False

    def __enter__(self) -> None:
        task = self._task
        self._flags, task.irqs_disabled = task.irqs_disabled, task.irqs_disabled or bool(self._hardirq)
        task.hardirq_depth += self._hardirq
        task.softirq_depth += self._softirq

    def __exit__(self, *error: object) -> None:
        task = self._task
        task.softirq_depth -= self._softirq
        task.hardirq_depth -= self._hardirq
        if self._hardirq:
            task.irqs_disabled = self._flags


class _Current(threading.local):
    task: Task | None = None


_current = _Current()


def current() -> Task:
    """The task that runs.

    Raises:
        RuntimeError: this thread runs no kernel code. `Kernel.run` and `Process` do.
    """
    task = _current.task
    if task is None:
        raise RuntimeError("no kernel code runs in this thread: call it by Kernel.run, or a system call of a Process")
    return task


def current_or_none() -> Task | None:
    """The task that runs, None in a thread that runs no kernel code."""
    return _current.task


def enter(task: Task) -> Task | None:
    """Run as that task from here on; the one that ran, for `leave`."""
    outer, _current.task = _current.task, task
    if outer is not None:
        outer.inner = task
    return outer


def leave(outer: Task | None) -> None:
    """Undo `enter`."""
    _current.task = outer
    if outer is not None:
        outer.inner = None


def in_hardirq() -> bool:
    """Whether an interrupt handler runs."""
    return current().hardirq_depth > 0


def in_softirq() -> bool:
    """Whether a tasklet runs, or none can: `spin_lock_bh` counts, as in Linux."""
    task = current()
    return task.softirq_depth > 0 or task.bh_disabled > 0


def in_interrupt() -> bool:
    """Whether an interrupt handler or a tasklet runs, or tasklets are disabled."""
    return in_hardirq() or in_softirq()


def in_atomic() -> bool:
    """Whether the task must not sleep: in interrupt, with interrupts disabled, or with a spinlock held.

    Linux has `irqs_disabled()` apart from it; here no question needs the difference.
    """
    return current().is_atomic


def signal_pending() -> bool:
    """Whether the task's process is being killed, the one signal there is."""
    return current().signalled
