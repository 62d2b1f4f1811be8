# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Character devices (linux/cdev.h, linux/fs.h): numbers, and what a driver does for those who open them."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.report import ReportKind, warn, where
from ihsm_kmod.kernel.task import Core, current

DYNAMIC_MAJORS: Final = tuple(chain(range(254, 233, -1), range(511, 383, -1)))
"""Numbers that Linux gives to whoever asks for any, in this order (Documentation/admin-guide/devices.txt)."""


class Inode:
    """A device node, as the driver's `open` sees it."""

    def __init__(self, i_rdev: tuple[int, int], i_cdev: Cdev) -> None:
        """Major and minor number, and the device that they stand for."""
        self.i_rdev = i_rdev
        self.i_cdev = i_cdev


class File:
    """An open file (Linux: struct file). Descriptors and calls in flight refer to it; the last to go releases it."""

    def __init__(self, inode: Inode) -> None:
        """For the first descriptor."""
        self.f_inode = inode
        self.private_data: Any = None
        self.references = 1

    @property
    def f_op(self) -> FileOperations:
        """What the driver does for it."""
        return self.f_inode.i_cdev.fops


@dataclass(frozen=True)
class FileOperations:
    """What a driver does for those who open its device; None for what it does not do."""

    open: Callable[[Inode, File], None] | None = None
    unlocked_ioctl: Callable[[File, int, int], int] | None = None
    release: Callable[[Inode, File], None] | None = None
    """Called once, when nobody has the file any more. An `Errno` of it reaches nobody."""

    def all(self) -> tuple[Callable[..., object], ...]:
        """Those that there are."""
        return tuple(one for one in (self.open, self.unlocked_ioctl, self.release) if one is not None)


class Cdev:
    """A character device; a driver finds what it is part of by an attribute of its subclass, or by the inode."""

    def __init__(self, fops: FileOperations) -> None:
        """Not to be found yet."""
        self.fops = fops
        self.added_at = ""


class CharDevices:
    """Which numbers are taken, and which device has which."""

    def __init__(self, kernel: Core) -> None:
        """None."""
        self._kernel = kernel
        self._regions: dict[int, tuple[str, str]] = {}
        self._devices: dict[tuple[int, int], Cdev] = {}

    def reserve(self, name: str) -> int:
        """A major number that nobody has.

        Raises:
            Errno: EBUSY, there is none left.
        """
        at = where()
        with self._kernel.sched.lock:
            major = next((number for number in DYNAMIC_MAJORS if number not in self._regions), None)
            if major is None:
                raise Errno(errno.EBUSY, f"no major number left for {name}")
            self._regions[major] = (name, at)
        return major

    def give_back(self, major: int) -> None:
        """Nobody has this number any more; devices that still do are reported, and gone."""
        with self._kernel.sched.lock:
            if self._regions.pop(major, None) is None:
                return
            left = {cdev for (number, _), cdev in self._devices.items() if number == major}
        for cdev in left:
            text = f"character device of major {major}, which is given back without cdev_del"
            warn(ReportKind.RESOURCE_LEAK, text, cdev.added_at)
            self.remove(cdev)

    def add(self, cdev: Cdev, major: int, minor: int, count: int) -> None:
        """Let the numbers stand for the device."""
        cdev.added_at = where()
        with self._kernel.sched.lock:
            self._devices.update({(major, minor + number): cdev for number in range(count)})

    def remove(self, cdev: Cdev) -> bool:
        """No number stands for the device any more; False if none did."""
        with self._kernel.sched.lock:
            taken = [number for number, other in self._devices.items() if other is cdev]
            for number in taken:
                del self._devices[number]
        return bool(taken)

    def find(self, major: int, minor: int) -> Cdev:
        """The device of a number.

        Raises:
            Errno: ENXIO, there is none.
        """
        with self._kernel.sched.lock:
            cdev = self._devices.get((major, minor))
        if cdev is None:
            raise Errno(errno.ENXIO, f"no character device {major}:{minor}")
        return cdev

    def report_leaks(self) -> None:
        """Report every number that somebody still has."""
        for major, (name, at) in tuple(self._regions.items()):
            warn(ReportKind.RESOURCE_LEAK, f"character device region {major} of {name}", at)
            self.give_back(major)


def alloc_chrdev_region(first_minor: int, count: int, name: str) -> int:
    """Have a major number, with `count` minor numbers from `first_minor` on; the major number.

    Raises:
        Errno: EBUSY, there is none left.
    """
    return current().kernel.part(CharDevices).reserve(name)


def unregister_chrdev_region(major: int) -> None:
    """Give a major number back. Its devices must have been deleted."""
    current().kernel.part(CharDevices).give_back(major)


def cdev_add(cdev: Cdev, major: int, minor: int, count: int) -> None:
    """Let `count` minor numbers from `minor` on stand for the device: who has a node can open it from now on."""
    current().kernel.part(CharDevices).add(cdev, major, minor, count)


def cdev_del(cdev: Cdev) -> None:
    """Nobody can open the device any more. Who has it open goes on."""
    if not current().kernel.part(CharDevices).remove(cdev):
        warn(ReportKind.REFCOUNT, "cdev_del of a device that is not there (any more)")
