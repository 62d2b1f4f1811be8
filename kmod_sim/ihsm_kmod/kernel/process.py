# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Programs: what a process does with the kernel (Linux: fs/file.c, kernel/fork.c).

A system call runs in the thread that makes it, so that a debugger steps from `ioctl` into the driver.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from ihsm_kmod.kernel.address_space import AddressSpace
from ihsm_kmod.kernel.cdev import File
from ihsm_kmod.kernel.entry import run_as
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import ProcessMemory
from ihsm_kmod.kernel.task import Core, Task
from ihsm_kmod.kernel.thread_group import ThreadGroup
from ihsm_kmod.kernel.vfs import Vfs, fget, fput, vfs_ioctl

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


T = TypeVar("T")

FIRST_FD: Final = 3
"""The lowest number for a file: 0 to 2 are a program's standard streams."""


class Process(ThreadGroup):
    """A process. Any thread may make its system calls, each of which is a task; errors are `OSError`, as of `os`.

    All calls but `kill` and `exit` raise `Oops` on a kernel that has ended, and `OSError` ESRCH after their process.
    """

    def __init__(
        self, kernel: Core, *, comm: str = "app", tgid: int | None = None, mm: AddressSpace | None = None
    ) -> None:
        """A process without open files.

        Args:
            kernel: where it runs.
            comm: its program's name.
            tgid: its id; None for one that nobody has.
            mm: its memory; None for that of the calling program.
        """
        super().__init__(
            kernel,
            comm=comm,
            tgid=kernel.next_pid() if tgid is None else tgid,
            mm=ProcessMemory(os.getpid()) if mm is None else mm,
        )
        self._files: dict[int, File] = {}
        self._pids: dict[int, int] = {}

    def open(self, path: str) -> int:
        """Open a device node, such as `/dev/azihsm0`; the file's descriptor.

        Raises:
            OSError: as of the kernel's files and the driver's `open`.
        """
        return self._call(lambda: self._install(self.kernel.part(Vfs).open(self, path)))

    def ioctl(self, fd: int, number: int, argument: int | WriteableBuffer = 0) -> int:
        """Have the driver do something, as `fcntl.ioctl` does.

        Args:
            fd: from `open`, `dup` or `fork`.
            number: the request's.
            argument: an address in the process's memory; or something whose bytes the driver may read and write, of
                the calling program, which is what the process has as its memory unless it was made with another.

        Returns:
            What the driver returned.

        Raises:
            OSError: EBADF, no such file; or from the driver. EINTR, where the process was killed meanwhile.
        """
        # The anchor keeps the bytes where they are until the call is over.
        anchor = None if isinstance(argument, int) else ctypes.c_char.from_buffer(argument)
        address = argument if isinstance(argument, int) else ctypes.addressof(anchor)  # type: ignore[arg-type]
        try:
            return self._call(lambda: vfs_ioctl(self._get(fd), number, address))
        finally:
            del anchor

    def close(self, fd: int) -> None:
        """Close a file. Whoever is still in a call on it goes on, and the last of them releases it.

        Raises:
            OSError: EBADF, no such file. What the driver's `release` fails with is nobody's.
        """
        self._call(lambda: fput(self._take(fd)))

    def dup(self, fd: int) -> int:
        """Another descriptor for the same open file.

        Raises:
            OSError: EBADF, no such file.
        """
        return self._call(lambda: self._install(self._get(fd)))

    def fork(self) -> Process:
        """A child: it has another id, and the same open files under the same numbers."""
        child = Process(self.kernel, comm=self.comm, mm=self.mm)
        child._files = self._call(self._share_all)
        return child

    def exit(self) -> None:
        """The process ends itself: what other threads of it are in ends as if it were killed."""
        self.kill()

    def _call(self, call: Callable[[], T]) -> T:
        """Make a system call."""
        return self.call(call, self._pid())

    def _pid(self) -> int:
        """Id of the calling thread: the first that calls is the one that the process has its own from."""
        with self.kernel.sched.lock:
            if not self._pids:
                self._pids[threading.get_ident()] = self.tgid
            return self._pids.setdefault(threading.get_ident(), self.kernel.next_pid())

    def exit_files(self) -> None:
        """Close what is open; on a crashed kernel nobody does."""
        with self.kernel.sched.lock:
            files, self._files = list(self._files.values()), {}
            if self.kernel.sched.halted is not None:
                return
        for file in files:
            run_as(Task(self.kernel, self.comm, self), fput, file)

    def _file(self, fd: int) -> File:
        try:
            return self._files[fd]
        except KeyError:
            raise Errno(errno.EBADF, f"fd {fd}") from None

    def _take(self, fd: int) -> File:
        with self.kernel.sched.lock:
            file = self._file(fd)
            del self._files[fd]
            return file

    def _get(self, fd: int) -> File:
        """A file, with a reference to it that is the caller's: nobody's `close` comes between."""
        with self.kernel.sched.lock:
            file = self._file(fd)
            fget(file)
            return file

    def _share_all(self) -> dict[int, File]:
        with self.kernel.sched.lock:
            return {fd: self._get(fd) for fd in self._files}

    def _install(self, file: File) -> int:
        with self.kernel.sched.lock:
            fd = next(fd for fd in itertools.count(FIRST_FD) if fd not in self._files)
            self._files[fd] = file
            return fd
