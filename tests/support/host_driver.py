# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A driver without a device, whose node programs of the host use: /dev/toy0, and its folder in sysfs."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from enum import IntEnum

from ihsm_kmod.hsm.nodes import NodeClass
from ihsm_kmod.kernel.cdev import File, FileOperations, Inode
from ihsm_kmod.kernel.completion import Completion, complete_all, wait_for_completion
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.mm import copy_from_user, copy_to_user
from ihsm_kmod.kernel.module import Module
from ihsm_kmod.kernel.task import current

NODE = "/dev/toy0"
FOLDER = "/sys/class/toys/toy0"


class Command(IntEnum):
    """Numbers of its ioctls, as toy.h has them."""

    COUNT = 0x4201
    """Returns 0."""
    TGID = 0x4202
    """Returns the caller's process."""
    TID = 0x4203
    """Returns the caller's thread."""
    ADD_ONE = 0x4204
    """To the 64-bit number at the argument."""
    WAIT = 0x4205
    """Until `ToyModule.go_on`."""


class ToyModule(Module):
    """The driver. Other commands than those fail with ENOTTY."""

    name = "toy"

    def init(self) -> None:
        self.commands: Counter[int] = Counter()
        self.lock = threading.Lock()
        self.opened = self.released = 0
        self.waiting = Completion()
        self.gate = Completion()
        self.nodes = NodeClass("toys", "toy")
        operations = FileOperations(self._open, self._ioctl, self._release)
        self.node = self.nodes.create(None, self.nodes.take_minor(), operations)

    def exit(self) -> None:
        self.nodes.remove(self.node)
        self.nodes.destroy()

    def go_on(self, kernel: Kernel) -> None:
        """Let all who wait go on."""
        kernel.run(complete_all, self.gate)

    def _open(self, inode: Inode, file: File) -> None:
        self.opened += 1

    def _release(self, inode: Inode, file: File) -> None:
        self.released += 1

    def _ioctl(self, file: File, number: int, argument: int) -> int:
        with self.lock:
            self.commands[number] += 1
        match number:
            case Command.COUNT:
                return 0
            case Command.TGID:
                return current().tgid
            case Command.TID:
                return current().pid
            case Command.ADD_ONE:
                value = int.from_bytes(copy_from_user(argument, 8), "little")
                if copy_to_user(argument, (value + 1).to_bytes(8, "little")):
                    raise Errno(errno.EFAULT)
                return 0
            case Command.WAIT:
                complete_all(self.waiting)
                wait_for_completion(self.gate)
                return 0
        raise Errno(errno.ENOTTY)
