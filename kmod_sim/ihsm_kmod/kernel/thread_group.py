# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Who makes system calls (Linux: kernel/signal.c, kernel/exit.c): the threads of one process, and its end."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeVar

from ihsm_kmod.kernel.address_space import AddressSpace
from ihsm_kmod.kernel.entry import run_as
from ihsm_kmod.kernel.errors import ERESTARTSYS, Errno
from ihsm_kmod.kernel.task import Core, Task

T = TypeVar("T")


class ThreadGroup:
    """The threads of a process. Each system call of one is a task."""

    def __init__(self, kernel: Core, *, comm: str, tgid: int, mm: AddressSpace) -> None:
        """Running, in no call.

        Args:
            kernel: where it runs.
            comm: its program's name.
            tgid: its id.
            mm: its memory.
        """
        self.kernel = kernel
        self.comm = comm
        self.tgid = tgid
        self.mm = mm
        self._tasks: set[Task] = set()
        self._is_killed = False

    @property
    def has_ended(self) -> bool:
        """Whether it was killed or has exited, and all its calls have returned."""
        return self._is_killed and not self._tasks

    def call(self, call: Callable[[], T], pid: int) -> T:
        """Make a system call, as the thread with that id.

        Raises:
            OSError: from the kernel; EINTR, where the process was killed meanwhile; ESRCH, it was before.
            Oops: the kernel had ended, or does now.
        """
        task = Task(self.kernel, self.comm, self, pid)
        with self.kernel.sched.lock:
            if self._is_killed:
                raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
            self._tasks.add(task)
        try:
            return run_as(task, call)
        except Errno as error:
            code = errno.EINTR if error.errno == ERESTARTSYS else error.errno
            raise OSError(code, os.strerror(code)) from error
        finally:
            with self.kernel.sched.lock:
                self._tasks.remove(task)
            if self.has_ended:
                self.exit_files()

    def kill(self) -> None:
        """End the process. Its calls get a signal; the last that returns closes its files, at once if there is none."""
        with self.kernel.sched.lock:
            if self._is_killed:
                return
            self._is_killed = True
            for task in self._tasks:
                task.signalled = True
            is_idle = not self._tasks
            self.kernel.sched.wake()
        if is_idle:
            self.exit_files()

    def exit_files(self) -> None:
        """Called once no thread of the ended process is in a call: it has no files any more."""
