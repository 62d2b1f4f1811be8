# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Character devices and files of a machine, for programs of the host: what each of their system calls does there.

Both ways by which such calls come use this one layer. None as an answer means that the call is about nothing of the
machine, and the host's kernel is to carry it out; an `OSError` is the call's error.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path
from typing import Final

from ihsm.closing import Closing
from ihsm_kmod.host import syscalls
from ihsm_kmod.host.open_files import Handed, OpenFiles
from ihsm_kmod.host.processes import Caller
from ihsm_kmod.host.tree import Found, Tree, clean, fail, is_below
from ihsm_kmod.kernel.clock import SECOND_NS
from ihsm_kmod.kernel.errors import Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.sysfs import WRITABLE

_log = logging.getLogger(__name__)

SOCKET: Final = "socket:["
MEMFD_NAME: Final = "ihsm:"
"""Begins the name of a file that has an attribute's text; its path follows."""
MEMFD: Final = f"/memfd:{MEMFD_NAME}"
DELETED: Final = " (deleted)"
MEMFD_NAME_BYTES: Final = 249
"""Length of a name (memfd_create(2))."""
BLOCK_BYTES: Final = 4096
NEW_FILE_MODE: Final = 0o600
"""Of a file that a program makes by a name in a folder of the host that it has open; its own mode is not handed on."""


class HostFiles(Closing):
    """What programs of the host see of a machine's files."""

    def __init__(self, kernel: Kernel, shadow: Path) -> None:
        """For the files of `kernel`; `shadow` is an empty folder of ours."""
        self._kernel = kernel
        self.tree = Tree(kernel, shadow)
        self.open_files = OpenFiles(kernel)
        self._booted_ns = time.time_ns()

    def open(self, caller: Caller, path: str, flags: int) -> Handed | None:
        """Open a node, an attribute or a folder (open(2)); the caller hands it to the program, and closes it then.

        Raises:
            OSError: as of the machine's files and the driver's `open`. EACCES: a file of /sys that takes writes, to
                which none are brought; EIO: one that takes none.
        """
        found = self.tree.look(self.tree.real_path(path), follow=not flags & os.O_NOFOLLOW)
        if found is None:
            hosts = self._hosts_name(path)
            return None if hosts is None else Handed(os.open(hosts, flags | os.O_CLOEXEC, NEW_FILE_MODE), flags)
        is_path = bool(flags & os.O_PATH)
        if found.target and not is_path:
            fail(errno.ELOOP)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            fail(errno.EEXIST)
        if flags & os.O_DIRECTORY and not found.is_folder:
            fail(errno.ENOTDIR)
        if found.is_folder or is_path:
            return self._open_place(found, flags)
        if found.is_node:
            return self.open_files.open(caller, found.path, flags)
        return self._open_attribute(caller, found, flags)

    def ioctl(self, caller: Caller, inode: int, number: int, argument: int) -> int | None:
        """Have the driver of an open device do something (ioctl(2)); `inode` is that of the descriptor.

        Raises:
            OSError: from the driver.
        """
        return self.open_files.ioctl(caller, inode, number, argument)

    def stat(self, path: str, *, follow: bool) -> os.stat_result | None:
        """Of what is at a path (stat(2), lstat(2)); None for a folder that the host has, too, which stays the host's.

        Raises:
            OSError: of the host, for a name of its in a folder that we have opened.
        """
        found = self.tree.look(self.tree.real_path(path), follow=follow)
        if found is not None and not _is_host_folder(found):
            return self._stat(found)
        hosts = self._hosts_name(path)
        return None if hosts is None else os.stat(hosts, follow_symlinks=follow)

    def is_host_folder(self, path: str) -> bool:
        """Whether the machine has a folder at a path, and the host has it, too."""
        found = self.tree.look(self.tree.real_path(path))
        return found is not None and _is_host_folder(found)

    def readable(self, handed: Handed, flags: int) -> Handed:
        """The same place opened to be read, for a way by which nothing that O_PATH opened can be handed over.

        Raises:
            OSError: EBADF, it is the host's, where to open it may do something; ELOOP, it is a link.
        """
        link = f"/proc/self/fd/{handed.fd}"
        if not is_below(os.readlink(link), self.tree.shadow):
            fail(errno.EBADF)
        return Handed(os.open(link, os.O_RDONLY | os.O_CLOEXEC), flags)

    def path_of(self, link: str) -> str:
        """Path of what is open, which /proc/PID/fd/NUMBER gives as a `link`: that itself if it is nothing of ours."""
        if link.startswith(SOCKET):
            return self.open_files.path_of(inode_of(link)) or link
        if link.startswith(MEMFD):
            return link.removeprefix(MEMFD).removesuffix(DELETED)
        return link

    def access(self, path: str, mode: int) -> bool | None:
        """Whether a path may be used so (access(2)): always True; None as for `stat`.

        Raises:
            OSError: EACCES, it may not.
        """
        found = self.stat(path, follow=True)
        if found is None:
            return None
        if mode & ~_allowed(found.st_mode) & (os.R_OK | os.W_OK | os.X_OK):
            fail(errno.EACCES)
        return True

    def readlink(self, path: str) -> str | None:
        """Where a link leads to (readlink(2)).

        Raises:
            OSError: EINVAL, it is none.
        """
        path = self.tree.real_path(path)
        found = self.tree.look(path, follow=False)
        if found is None or _is_host_folder(found):
            return None
        return found.target or fail(errno.EINVAL)

    def close(self) -> None:
        """Release all that is open, whoever has it still."""
        self.open_files.close()

    def _hosts_name(self, path: str) -> str | None:
        """Path of something of the host's by which its kernel finds it; None if `path` is one."""
        if not path.startswith("/"):  # no path at all: what /proc shows of a pipe, for one
            return None
        hosts = clean(self.tree.host_path(self.tree.real_path(path)))
        return None if hosts == clean(path) else hosts

    def _stat(self, found: Found) -> os.stat_result:
        seconds = self._booted_ns // SECOND_NS
        whole = (found.st_mode, found.st_ino, 0, 1, os.geteuid(), os.getegid(), found.st_size, *3 * (seconds,))
        # cp(1) takes a file with fewer blocks for one with holes, and makes its copy as long as the file seems to be.
        blocks = found.st_size // syscalls.BLOCK_BYTES
        more = {"st_blksize": BLOCK_BYTES, "st_blocks": blocks, "st_rdev": os.makedev(*found.st_rdev)}
        more |= {f"st_{which}time_ns": self._booted_ns for which in "amc"}
        return os.stat_result(whole, more)

    def _open_place(self, found: Found, flags: int) -> Handed:
        """A folder, or with O_PATH anything: its place in the shadow."""
        if found.is_folder and flags & os.O_ACCMODE != os.O_RDONLY:
            fail(errno.EISDIR)
        folder, name = os.path.split(found.path)
        place = self.tree.list_folder(found) if found.is_folder else self._place(folder) / name
        passed = flags & (os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW)
        return Handed(os.open(place, passed | os.O_RDONLY | os.O_CLOEXEC), flags)

    def _place(self, folder: str) -> Path:
        above = self.tree.look(folder)
        assert above is not None, "what the machine has is in a folder of its"
        return self.tree.list_folder(above)

    def _open_attribute(self, caller: Caller, found: Found, flags: int) -> Handed:
        """A file with the text that the attribute has now."""
        if flags & os.O_ACCMODE != os.O_RDONLY:
            attribute = self._kernel.vfs.sysfs.find(found.path)
            fail(errno.EACCES if getattr(attribute, "store", None) or not found.st_mode & WRITABLE else errno.EIO)
        text = self.open_files.as_task(caller, lambda: self._kernel.vfs.sysfs.read(found.path))
        written = os.memfd_create(MEMFD_NAME + found.path[: MEMFD_NAME_BYTES - len(MEMFD_NAME)])
        try:
            os.write(written, text.encode())
            return Handed(os.open(f"/proc/self/fd/{written}", os.O_RDONLY | os.O_CLOEXEC), flags)
        finally:
            os.close(written)


def error_number(error: Exception, call: str) -> int:
    """What a call fails with that has ended so; what is no error of a file is told in the log, too."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    if isinstance(error, Oops):
        _log.error("the machine's kernel has crashed: %s", error)
    else:
        _log.error("%s", call, exc_info=error)
    return errno.EIO


def inode_of(link: str) -> int:
    """Inode of a socket, which /proc/PID/fd/NUMBER gives as a `link`."""
    return int(link.removeprefix(SOCKET).rstrip("]"))


def _is_host_folder(found: Found) -> bool:
    """Whether it is a folder that the host has, too."""
    return found.is_folder and os.path.isdir(found.path)


def _allowed(mode: int) -> int:
    """What the owner may do, as bits of access(2): nobody else is served."""
    return mode >> 6 & 0o7
