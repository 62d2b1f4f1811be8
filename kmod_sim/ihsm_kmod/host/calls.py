# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""System calls as the host's kernel hands them over: arguments read, done on the machine's files, results written.

A call that is about nothing of the machine goes on in the host's kernel, which reads its arguments anew. So this is no
wall around a program, and not meant as one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ihsm_kmod.host.files import SOCKET, HostFiles, error_number, inode_of
from ihsm_kmod.host.open_files import Handed
from ihsm_kmod.host.processes import Caller
from ihsm_kmod.host.seccomp import Listener, Notification
from ihsm_kmod.host.syscalls import (
    AT_EMPTY_PATH,
    AT_FDCWD,
    AT_SYMLINK_NOFOLLOW,
    OPEN_HOW,
    STAT_FLAGS,
    Sys,
    pack_stat,
    pack_statx,
)
from ihsm_kmod.host.tree import fail, led
from ihsm_kmod.kernel.address_space import AddressSpace

PATH_BYTES: Final = 4096
"""Length of a path with its end (linux/limits.h, PATH_MAX)."""
MOST_PATHS_BYTES: Final = 256
NO_PATH: Final = 0
ACCESS_MODES: Final = os.R_OK | os.W_OK | os.X_OK
_TGKILL: Final = ctypes.CDLL(None, use_errno=True).tgkill


class Calls:
    """What is done for each call. Any number of threads may have some done."""

    def __init__(self, listener: Listener, files: HostFiles) -> None:
        """On these files, for programs whose calls come from there."""
        self._listener = listener
        self._files = files
        self._tgids: dict[int, int] = {}
        self._giving = threading.Lock()
        """Held until it is known what a program was given, with which it may go on before."""

    def serve(self, call: Notification) -> None:
        """Do what a call asks for, and answer it, whatever happens: its program waits."""
        try:
            result = self._do(call)
            if isinstance(result, Handed):
                with result:
                    self._give(call, result)
            elif result is None:
                self._listener.carry_on(call)
            else:
                self._listener.answer(call, result)
        except Exception as error:
            self._listener.fail(call, error_number(error, f"system call {call.nr} of thread {call.tid}"))

    def _do(self, call: Notification) -> int | Handed | None:
        """What the call returns; None: the host's kernel is to carry it out."""
        first, second, third, fourth, fifth, _ = call.args
        match call.nr:
            case Sys.IOCTL:
                return self._ioctl(call, _int(first), _unsigned(second), third)
            case Sys.OPEN:
                return self._open(call, AT_FDCWD, first, second)
            case Sys.OPENAT:
                return self._open(call, _int(first), second, third)
            case Sys.OPENAT2:
                return self._open(call, _int(first), second, self._open_flags(call, third))
            case Sys.STAT:
                return self._stat(call, AT_FDCWD, first, 0, second, pack_stat)
            case Sys.LSTAT:
                return self._stat(call, AT_FDCWD, first, AT_SYMLINK_NOFOLLOW, second, pack_stat)
            case Sys.FSTAT:
                return self._stat(call, _int(first), NO_PATH, AT_EMPTY_PATH, second, pack_stat)
            case Sys.NEWFSTATAT:
                return self._stat(call, _int(first), second, fourth, third, pack_stat)
            case Sys.STATX:
                return self._stat(call, _int(first), second, third, fifth, pack_statx)
            case Sys.ACCESS:
                return self._access(call, AT_FDCWD, first, second)
            case Sys.FACCESSAT | Sys.FACCESSAT2:
                return self._access(call, _int(first), second, third)
            case Sys.READLINK:
                return self._readlink(call, AT_FDCWD, first, second, third)
            case Sys.READLINKAT:
                return self._readlink(call, _int(first), second, third, fourth)
            case Sys.GETXATTR | Sys.LGETXATTR:
                return self._attribute(call, first)
            case Sys.LISTXATTR | Sys.LLISTXATTR:
                return self._list_attributes(call, first)
        return None

    def _ioctl(self, call: Notification, fd: int, number: int, argument: int) -> int | None:
        caller = self._caller(call)
        try:
            link = os.readlink(f"/proc/{call.tid}/fd/{fd}")
        except PermissionError:
            with self._giving:
                inode = self._files.open_files.inode_given(caller, fd)
        except OSError:
            return None
        else:
            inode = inode_of(link) if link.startswith(SOCKET) else None
        if inode is None or not self._listener.is_waiting(call):
            return None
        return self._files.ioctl(caller, inode, number, argument)

    def _open(self, call: Notification, folder: int, path: int, flags: int) -> Handed | None:
        is_new = bool(flags & os.O_CREAT and flags & os.O_EXCL)
        name = self._path(call, folder, path, follow=not (is_new or flags & os.O_NOFOLLOW))
        if name is None:
            return None
        if flags & os.O_PATH and self._files.is_host_folder(name):
            return None
        handed = self._files.open(self._caller(call), name, flags)
        if handed is None or not flags & os.O_PATH:
            return handed
        with handed:
            return self._files.readable(handed, flags)

    def _give(self, call: Notification, handed: Handed) -> None:
        """Answer with a descriptor."""
        caller = self._caller(call)
        with self._giving:
            number = self._listener.give(call, handed.fd, close_on_exec=handed.close_on_exec)
            if number is not None and handed.inode is not None:
                self._files.open_files.given(caller, number, handed.inode)

    def _open_flags(self, call: Notification, how: int) -> int:
        data = self._memory(call).read(how, OPEN_HOW.size)
        return int(OPEN_HOW.unpack(data)[0]) if len(data) == OPEN_HOW.size else 0

    def _stat(
        self,
        call: Notification,
        folder: int,
        path: int,
        flags: int,
        buffer: int,
        pack: Callable[[os.stat_result], bytes],
    ) -> int | None:
        if _unsigned(flags) & ~STAT_FLAGS:
            return None  # the host's kernel refuses it
        follow = not flags & AT_SYMLINK_NOFOLLOW
        is_of_folder = flags & AT_EMPTY_PATH and self._is_empty(call, path)
        name = self._open_path(call, folder) if is_of_folder else self._path(call, folder, path, follow=follow)
        found = None if name is None else self._files.stat(name, follow=follow)
        return None if found is None else self._write(call, buffer, pack(found))

    def _access(self, call: Notification, folder: int, path: int, mode: int) -> int | None:
        if _unsigned(mode) & ~ACCESS_MODES:
            return None  # the host's kernel refuses it
        name = self._path(call, folder, path, follow=True)
        return None if name is None or self._files.access(name, mode) is None else 0

    def _readlink(self, call: Notification, folder: int, path: int, buffer: int, size: int) -> int | None:
        name = self._path(call, folder, path, follow=False)
        target = None if name is None else self._files.readlink(name)
        if target is None:
            return None
        data = os.fsencode(target)[:size]
        self._write(call, buffer, data)
        return len(data)

    def _attribute(self, call: Notification, path: int) -> int | None:
        """One extended attribute: there is none, and `ls -l` asks for some."""
        if self._is_ours(call, path):
            fail(errno.ENODATA)
        return None

    def _list_attributes(self, call: Notification, path: int) -> int | None:
        return 0 if self._is_ours(call, path) else None

    def _is_ours(self, call: Notification, path: int) -> bool:
        name = self._path(call, AT_FDCWD, path, follow=False)
        return name is not None and self._files.stat(name, follow=False) is not None

    def _caller(self, call: Notification) -> Caller:
        """Which process the thread belongs to.

        Raises:
            OSError: ESRCH, it has ended.
        """
        tgid = self._tgids.get(call.tid)
        if tgid is None or _TGKILL(tgid, call.tid, 0):  # the number may be another process's meanwhile
            tgid = self._tgids[call.tid] = _tgid_of(call.tid)
        return Caller(tgid, call.tid)

    def _memory(self, call: Notification) -> AddressSpace:
        return self._files.open_files.memory_of(self._caller(call))

    def _write(self, call: Notification, address: int, data: bytes) -> int:
        """Write a result; 0, which most calls return that have one."""
        if not self._listener.is_waiting(call) or self._memory(call).write(address, data) < len(data):
            fail(errno.EFAULT)
        return 0

    def _path(self, call: Notification, folder: int, address: int, *, follow: bool) -> str | None:
        """An argument that is a path, made absolute; None if there is none, and for one that is too long or no path.

        A link of the host's at its end, if it is to `follow`, may lead to the machine's files as all before it may.
        """
        memory = self._memory(call)
        data = memory.read(address, MOST_PATHS_BYTES)
        if len(data) == MOST_PATHS_BYTES and 0 not in data:
            data = memory.read(address, PATH_BYTES)
        name, end, _ = data.partition(b"\0")
        if not name or not end:
            return None
        path = os.fsdecode(name)
        if not path.startswith("/"):
            above = self._open_path(call, folder)
            if above is None:
                return None
            path = f"{above}/{path}"
        return led(path, follow=follow) if self._listener.is_waiting(call) else None

    def _is_empty(self, call: Notification, address: int) -> bool:
        """Whether an argument that is a path has no bytes, or is none at all."""
        return not address or self._memory(call).read(address, 1) == b"\0"

    def _open_path(self, call: Notification, fd: int) -> str | None:
        """Path of what is open under a number, AT_FDCWD for the current folder; None if nobody may know."""
        try:
            link = os.readlink(f"/proc/{call.tid}/" + ("cwd" if fd == AT_FDCWD else f"fd/{fd}"))
        except OSError:
            return None
        return self._files.path_of(link)


def _tgid_of(tid: int) -> int:
    try:
        status = Path(f"/proc/{tid}/status").read_text(errors="replace")
    except OSError:
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Tgid:"))


def _int(argument: int) -> int:
    """An argument of C's type int, which the kernel takes from the lower half of a register."""
    return ctypes.c_int(argument & 0xFFFF_FFFF).value


def _unsigned(argument: int) -> int:
    return argument & 0xFFFF_FFFF
