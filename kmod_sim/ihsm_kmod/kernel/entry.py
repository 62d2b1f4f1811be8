# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The way into the kernel and out of it (Linux: kernel/entry/common.c)."""

from __future__ import annotations

from bdb import BdbQuit
from collections.abc import Callable
from typing import TypeVar

from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.report import ReportKind, crash, warn
from ihsm_kmod.kernel.task import Core, Task, enter, leave

T = TypeVar("T")


class Tasks:
    """The tasks of one kernel that run, or sleep."""

    def __init__(self, kernel: Core) -> None:
        """None."""
        self.all: set[Task] = set()


def run_as(task: Task, function: Callable[..., T], *args: object) -> T:
    """Call kernel code as that task, and return what it returns.

    Raises:
        Errno: from the code.
        Oops: the kernel had crashed, or does now; any other exception of the code crashes it.
    """
    sched = task.kernel.sched
    tasks = task.kernel.part(Tasks).all
    outer = enter(task)
    try:
        sched.check()
        with sched.lock:
            tasks.add(task)
        try:
            result = function(*args)
        except (Errno, BdbQuit):
            raise
        except Exception as error:
            crash(error)
        finally:
            check_balance(task)
        return result
    finally:
        with sched.lock:
            tasks.discard(task)
        leave(outer)


def check_balance(task: Task, what: object = None) -> None:
    """See that a task, which is about to return from something, or to user space, has given back all that it took."""
    if task.kernel.sched.halted is not None:
        return
    held_locks, task.held_locks, task.spinlocks_held = task.held_locks, [], 0
    is_disabled, task.bh_disabled, task.irqs_disabled = task.bh_disabled or task.irqs_disabled, 0, False
    if not held_locks and not is_disabled:
        return
    place = "to user space" if what is None else f"from {what}"
    for held in held_locks:
        warn(ReportKind.LOCK_HELD, f"returning {place} with {held.lock} held", held.where)
    if is_disabled:
        warn(ReportKind.LOCK_HELD, f"returning {place} with interrupts or tasklets disabled")
