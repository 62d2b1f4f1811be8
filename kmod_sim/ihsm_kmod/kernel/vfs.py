# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What programs see as files (Linux: fs/file_table.c, fs/char_dev.c, fs/ioctl.c): /dev and /sys."""

from __future__ import annotations

import contextlib
import errno
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from ihsm_kmod.kernel.cdev import CharDevices, File, Inode
from ihsm_kmod.kernel.device import Nodes
from ihsm_kmod.kernel.entry import run_as
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.report import ReportKind, warn
from ihsm_kmod.kernel.sysfs import Attribute, KObject, Sysfs
from ihsm_kmod.kernel.task import Core, Program, Task, current, current_or_none

T = TypeVar("T")
FOLDER_MODE: Final = stat.S_IFDIR | 0o755
NODE_MODE: Final = stat.S_IFCHR | 0o600
"""As devtmpfs makes a node, before udev has its say."""


@dataclass(frozen=True)
class Stat:
    """What stat(2) says of a file."""

    st_mode: int
    st_rdev: tuple[int, int] = (0, 0)
    """Of a node: major and minor number."""


class Vfs:
    """The files of one kernel."""

    def __init__(self, kernel: Core) -> None:
        """/sys with the folders that there always are, and an empty /dev."""
        self._kernel = kernel
        self.sysfs = kernel.part(Sysfs)
        self._chrdevs = kernel.part(CharDevices)
        self._nodes = kernel.part(Nodes).by_name
        self.files: set[File] = set()

    def open(self, process: Program | None, path: str) -> File:
        """Open a node of /dev, as a task of `process`; None: as the task that runs.

        Raises:
            Errno: ENOENT, there is no such node; ENXIO, it stands for no device; or from the driver's `open`.
        """
        return self.in_task(lambda: self._open(path), process)

    def read_text(self, path: str) -> str:
        """Text of a file of /sys, exactly as its `show` gave it; errors as `Sysfs.read`."""
        return self.in_task(lambda: self.sysfs.read(path))

    def write_text(self, path: str, text: str) -> None:
        """Write to a file of /sys; errors as `Sysfs.write`."""
        self.in_task(lambda: self.sysfs.write(path, text))

    def listdir(self, path: str) -> list[str]:
        """Names in a folder, sorted.

        Raises:
            Errno: ENOENT, there is none; ENOTDIR, it is no folder.
        """
        if path.rstrip("/") == "/dev":
            return sorted(self._nodes)
        found = self.sysfs.find(path)
        if isinstance(found, Attribute):
            raise Errno(errno.ENOTDIR, path)
        return sorted(found.children)

    def exists(self, path: str) -> bool:
        """Whether there is anything at a path."""
        try:
            self.stat(path)
        except Errno:
            return False
        return True

    def stat(self, path: str) -> Stat:
        """Kind, mode and number of a file.

        Raises:
            Errno: ENOENT, ENOTDIR: there is nothing at that path.
        """
        if path.rstrip("/") == "/dev":
            return Stat(FOLDER_MODE)
        if path.startswith("/dev/"):
            return Stat(NODE_MODE, self._node(path))
        found = self.sysfs.find(path)
        return Stat(FOLDER_MODE if isinstance(found, KObject) else stat.S_IFREG | found.mode)

    def in_task(self, call: Callable[[], T], process: Program | None = None) -> T:
        """Make a call as the task that runs; if there is none, or it is to be of a process, as a new task."""
        task = current_or_none()
        if task is not None and task.kernel is self._kernel and (process is None or task.process is process):
            return call()
        return run_as(Task(self._kernel, "cat", process), call)

    @property
    def open_files(self) -> int:
        """How many are open."""
        return len(self.files)

    def is_using(self, has_code: Callable[[str], bool]) -> bool:
        """Whether a file is open that code of these Python modules serves (Linux counts that, in try_module_get)."""
        with self._kernel.sched.lock:
            files = tuple(self.files)
        return any(has_code(operation.__module__) for file in files for operation in file.f_op.all())

    def close(self) -> None:
        """The kernel ends: report what drivers have left."""
        self._chrdevs.report_leaks()
        for device in self._nodes.values():
            warn(ReportKind.RESOURCE_LEAK, f"node /dev/{device.name}, without device_destroy", device.created_at)
        for left in self.sysfs.classes.children.values():
            if isinstance(left, KObject):
                warn(ReportKind.RESOURCE_LEAK, f"device class {left.name}, without class_destroy", left.created_at)

    def _node(self, path: str) -> tuple[int, int]:
        device = self._nodes.get(path.removeprefix("/dev/")) if path.startswith("/dev/") else None
        if device is None:
            raise Errno(errno.ENOENT, path)
        return device.number

    def _open(self, path: str) -> File:
        number = self._node(path)
        cdev = self._chrdevs.find(*number)
        file = File(Inode(number, cdev))
        if cdev.fops.open is not None:
            cdev.fops.open(file.f_inode, file)
        with self._kernel.sched.lock:
            self.files.add(file)
        return file


def fget(file: File) -> None:
    """Refer to a file once more: from another descriptor, or for the length of a call."""
    with current().kernel.sched.lock:
        file.references += 1


def fput(file: File) -> None:
    """Refer to it once less. Whoever is the last releases it, in the context of its process (Linux: fs/file_table.c).

    So `close` while another thread is in an `ioctl` returns at once, and that thread releases the file when it is done.
    """
    kernel = current().kernel
    with kernel.sched.lock:
        file.references -= 1
        if file.references:
            return
        kernel.part(Vfs).files.remove(file)
    kernel.sched.check()
    if file.f_op.release is not None:
        # What a release fails with is ignored: the file is gone in any case.
        with contextlib.suppress(Errno):
            file.f_op.release(file.f_inode, file)


def vfs_ioctl(file: File, command: int, argument: int) -> int:
    """Hand a command to the driver, which has the file for as long as it works on it: its reference is given back then.

    Raises:
        Errno: from the driver; ENOTTY, it takes no commands.
    """
    try:
        if file.f_op.unlocked_ioctl is None:
            raise Errno(errno.ENOTTY)
        return file.f_op.unlocked_ioctl(file, command, argument)
    finally:
        fput(file)
