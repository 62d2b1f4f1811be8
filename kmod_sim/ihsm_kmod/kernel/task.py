# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Tasks: what runs kernel code, and in which context it does (linux/sched.h, linux/preempt.h).

Every thread that runs kernel code does so as a task, for the length of one call: a system call, a work, an interrupt.
`current()` is that task, and what it belongs to says which kernel a function works on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ihsm_kmod.kernel.kernel import Kernel
    from ihsm_kmod.kernel.lockdep import Lock
    from ihsm_kmod.kernel.mm import AddressSpace
    from ihsm_kmod.kernel.process import Process


class Blocker(Protocol):
    """Something that one task has and others wait for: a lock, a work that runs, a thread that is to end."""

    @property
    def owner(self) -> Task | None:
        """Who has it, None if nobody does."""

    def __str__(self) -> str:
        """What it is, for a report."""


@dataclass(frozen=True)
class HeldLock:
    """A lock that a task has, and where it took it."""

    lock: Lock
    where: str
    is_atomic: bool
    """Whether the task must not sleep until it gives it back."""


class Task:
    """One task of a kernel (Linux: struct task_struct)."""

    def __init__(self, kernel: Kernel, comm: str, process: Process | None = None, pid: int | None = None) -> None:
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

    @contextmanager
    def hardirq(self) -> Iterator[None]:
        """Run the block as an interrupt handler, with interrupts disabled."""
        flags, self.irqs_disabled = self.irqs_disabled, True
        self.hardirq_depth += 1
        try:
            yield
        finally:
            self.hardirq_depth -= 1
            self.irqs_disabled = flags

    @contextmanager
    def softirq(self) -> Iterator[None]:
        """Run the block as a tasklet."""
        self.softirq_depth += 1
        try:
            yield
        finally:
            self.softirq_depth -= 1


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


@contextmanager
def entered(task: Task) -> Iterator[None]:
    """Run the block as that task."""
    outer, _current.task = _current.task, task
    if outer is not None:
        outer.inner = task
    try:
        yield
    finally:
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
    task = current()
    return in_interrupt() or task.irqs_disabled or task.spinlocks_held > 0


def signal_pending() -> bool:
    """Whether the task's process is being killed, the one signal there is."""
    return current().signalled
