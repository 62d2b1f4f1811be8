# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Threads of the kernel (linux/kthread.h)."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ihsm_kmod.kernel.entry import run_as
from ihsm_kmod.kernel.sched import JOIN_S
from ihsm_kmod.kernel.task import Core, Task, current_or_none


class Threads:
    """The threads of one kernel that have not ended."""

    def __init__(self, kernel: Core) -> None:
        """None."""
        self.all: list[KThread] = []


class KThread:
    """A thread that runs one function as a task of the kernel. It ends with the function, or with the kernel."""

    def __init__(self, kernel: Core, function: Callable[[], object], comm: str, *, is_service: bool = False) -> None:
        """Start it; a service of the kernel itself is one that the kernel's end need not tell of."""
        self.is_service = is_service
        self.is_done = False
        self._kernel = kernel
        self._function = function
        self._task = Task(kernel, comm)
        self._result: object = None
        self._error: BaseException | None = None
        # A daemon: one that never calls into the kernel again must not keep the program from ending.
        self._thread = threading.Thread(target=self._run, name=str(self._task), daemon=True)
        with kernel.sched.lock:
            kernel.part(Threads).all.append(self)
        self._thread.start()

    def __str__(self) -> str:
        """Its task."""
        return f"thread {self._task}"

    @property
    def owner(self) -> Task | None:
        """The task that whoever joins waits for."""
        return None if self.is_done else self._task

    def join(self) -> object:
        """Wait for the end of the function, and return what it returned.

        Raises:
            Errno, Oops: what ended it.
            TimeoutError: it does not end, and calls nothing of the kernel.
        """
        if current_or_none() is None:
            if not self.ends(JOIN_S):
                raise TimeoutError(f"{self} does not end")
        else:
            self._kernel.sched.sleep(lambda: self.is_done, waits_for=self)
        if self._error is not None:
            raise self._error
        return self._result

    def ends(self, within_s: float) -> bool:
        """Whether the thread ends within so many real seconds."""
        if self._thread is threading.current_thread():
            return False
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._result = run_as(self._task, self._function)
        except BaseException as error:
            # For whoever joins. An oops is in the kernel's reports, whether somebody does or not.
            self._error = error
        finally:
            with self._kernel.sched.lock:
                self.is_done = True
                self._kernel.part(Threads).all.remove(self)
            self._kernel.sched.wake()
