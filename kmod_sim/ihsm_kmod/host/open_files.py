# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Open devices of programs of the host: the descriptors that these get, and how their last close is noticed.

A descriptor is a listening Unix socket, to which one connection was made that nobody accepts. It answers as the device
does to what the driver has no operation for: read(2) with EINVAL, mmap(2) with ENODEV. When the last descriptor is
closed, through dup, fork, exec or the end of a process, the host's kernel hangs that connection up.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final, TypeVar

from ihsm.closing import Closing
from ihsm_kmod.host.processes import Caller, GroupMemory, HostProcess
from ihsm_kmod.kernel.address_space import AddressSpace
from ihsm_kmod.kernel.cdev import File
from ihsm_kmod.kernel.entry import run_as
from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.task import Task
from ihsm_kmod.kernel.thread_group import ThreadGroup
from ihsm_kmod.kernel.vfs import fget, fput, vfs_ioctl

T = TypeVar("T")

RELEASERS: Final = 64
"""Releases at a time; each may wait for a command of the device."""
NOBODY: Final = 0
"""Id of the process that has closed a file last, where all that is known is that it was not the one which opened it."""


class _NoMemory:
    """Memory of a process that is not known."""

    def read(self, address: int, size: int) -> bytes:
        return b""

    def write(self, address: int, data: bytes) -> int:
        return 0

    def accessible_bytes(self, address: int, size: int, write: bool) -> int:
        return 0


_NO_MEMORY: Final[AddressSpace] = _NoMemory()


class Handed(Closing):
    """A descriptor that is made for a program."""

    def __init__(self, fd: int, flags: int, inode: int | None = None) -> None:
        """Ours until it is closed; `flags` are those of its open(2), `inode` if it is of an open device."""
        self.fd = fd
        self.close_on_exec = bool(flags & os.O_CLOEXEC)
        self.inode = inode

    def close(self) -> None:
        """Let go of our copy of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


@dataclass
class _Open:
    """An open device."""

    path: str
    file: File
    owner: HostProcess
    end: socket.socket
    """The connection that hangs up."""
    inode: int
    owner_has_ended: bool = False
    """Before the last close: others have it still."""


class OpenFiles(Closing):
    """Open devices of all programs."""

    def __init__(self, kernel: Kernel) -> None:
        """None."""
        self._kernel = kernel
        self._lock = threading.RLock()
        self._open: dict[int, _Open] = {}
        self._processes: dict[int, HostProcess] = {}
        self._events: dict[int, _Open | HostProcess] = {}
        self._epoll = select.epoll()
        self._end, self._ended = os.pipe()
        self._epoll.register(self._end, select.EPOLLHUP)
        self._releases: dict[int, set[Future[None]]] = {}
        self._pool = ThreadPoolExecutor(RELEASERS, "release")
        self._watcher = threading.Thread(target=self._watch, name="hang-ups", daemon=True)
        self._watcher.start()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._open)

    def path_of(self, inode: int) -> str | None:
        """Of which node a descriptor with that inode is; None if it is of none."""
        found = self._open.get(inode)
        return None if found is None else found.path

    def open(self, caller: Caller, path: str, flags: int) -> Handed:
        """Open a node; OSError as of the driver's `open`."""
        self.settle(caller.tgid)
        process = self._process(caller.tgid)
        process.remember_memory(caller.tid)
        file = process.call(lambda: self._kernel.vfs.open(process, path), caller.tid)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind("")  # to a name that the host's kernel chooses
            listener.listen(1)
            end.connect(listener.getsockname())
        except OSError:
            listener.close()
            end.close()
            self._release(process, file)
            raise
        inode = os.fstat(listener.fileno()).st_ino
        opened = _Open(path, file, process, end, inode)
        with self._lock:
            self._open[inode] = opened
            self._watch_for(end.fileno(), select.EPOLLHUP, opened)
        return Handed(listener.detach(), flags, inode)

    def ioctl(self, caller: Caller, inode: int, number: int, argument: int) -> int | None:
        """Have the driver of a descriptor's device do something; None if it is of no device.

        Raises:
            OSError: from the driver.
        """
        if inode not in self._open:
            return None
        return self.as_task(caller, lambda: vfs_ioctl(self._get(inode), number, argument))

    def as_task(self, caller: Caller, call: Callable[[], T]) -> T:
        """Call kernel code for a program, after what it has closed; OSError from the code."""
        self.settle(caller.tgid)
        return self._process(caller.tgid).call(call, caller.tid)

    def given(self, caller: Caller, fd: int, inode: int) -> None:
        """Remember under which number a program was given a device, for when it lets nobody look."""
        self._process(caller.tgid).descriptors[fd] = inode

    def inode_given(self, caller: Caller, fd: int) -> int | None:
        """The inode of a device that was given under that number and is open; None if there is none."""
        process = self._processes.get(caller.tgid)
        inode = process.descriptors.get(fd) if process is not None else None
        return inode if inode in self._open else None

    def memory_of(self, caller: Caller) -> AddressSpace:
        """Memory of a program."""
        process = self._processes.get(caller.tgid)
        return GroupMemory(caller.tgid) if process is None else process.mm

    def settle(self, tgid: int) -> None:
        """Do what has hung up; returns when all is released that this process had closed before it called."""
        self._collect()
        if self._releases:
            with self._lock:
                releases = set(self._releases.get(tgid, ()))
            wait(releases)

    def close(self) -> None:
        """Release all that is open, whoever has it still, and wait for that."""
        os.close(self._ended)
        self._watcher.join()
        self._collect()
        with self._lock:
            for opened in tuple(self._open.values()):
                self._hung_up(opened)
        self._pool.shutdown()
        self._epoll.close()
        os.close(self._end)
        for process in self._processes.values():
            process.kill()

    def _get(self, inode: int) -> File:
        with self._lock:
            opened = self._open.get(inode)
            if opened is None:
                # The program was killed, and the end of the file noticed, before this call of its came here.
                raise Errno(errno.EBADF, "closed meanwhile")
            fget(opened.file)
            return opened.file

    def _process(self, tgid: int) -> HostProcess:
        with self._lock:
            process = self._processes.get(tgid)
            if process is None:
                process = self._processes[tgid] = HostProcess(self._kernel, tgid)
                self._watch_for(process.pidfd, select.EPOLLIN, process)
            return process

    def _watch_for(self, fd: int, event: int, of: _Open | HostProcess) -> None:
        self._events[fd] = of
        self._epoll.register(fd, event)

    def _unwatch(self, fd: int) -> None:
        self._epoll.unregister(fd)
        del self._events[fd]

    def _watch(self) -> None:
        while not any(fd == self._end for fd, _ in self._epoll.poll()):
            self._collect()

    def _collect(self) -> None:
        """Do what has hung up and ended: files first, for a process that ends has closed its own before."""
        with self._lock:
            events = [self._events[fd] for fd, _ in self._epoll.poll(0) if fd in self._events]
            for event in events:
                if isinstance(event, _Open):
                    self._hung_up(event)
            for event in events:
                if isinstance(event, HostProcess):
                    self._has_ended(event)

    def _hung_up(self, opened: _Open) -> None:
        del self._open[opened.inode]
        self._unwatch(opened.end.fileno())
        opened.end.close()
        owner = opened.owner
        for fd in [fd for fd, inode in owner.descriptors.items() if inode == opened.inode]:
            del owner.descriptors[fd]
        closer = ThreadGroup(self._kernel, comm="?", tgid=NOBODY, mm=_NO_MEMORY) if opened.owner_has_ended else owner
        release = self._pool.submit(self._release, closer, opened.file)
        self._releases.setdefault(owner.tgid, set()).add(release)
        release.add_done_callback(lambda done: self._is_released(owner.tgid, done))

    def _is_released(self, tgid: int, release: Future[None]) -> None:
        with self._lock:
            releases = self._releases[tgid]
            releases.discard(release)
            if not releases:
                del self._releases[tgid]

    def _has_ended(self, process: HostProcess) -> None:
        self._unwatch(process.pidfd)
        del self._processes[process.tgid]
        for opened in self._open.values():
            if opened.owner is process:
                opened.owner_has_ended = True
        process.kill()

    def _release(self, closer: ThreadGroup, file: File) -> None:
        """Give back the descriptors' reference, as a task of the process that closed the last of them."""
        with contextlib.suppress(Oops):  # a kernel that has crashed releases nothing any more
            run_as(Task(self._kernel, closer.comm, closer, closer.tgid), fput, file)
