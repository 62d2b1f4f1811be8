# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A driver that does nothing: with it, what is measured of an ioctl is the way there and back."""

from __future__ import annotations

from ihsm_abi.uapi import HSM_CLASS, HSM_NODE_PREFIX
from ihsm_kmod.kernel.cdev import (
    Cdev,
    File,
    FileOperations,
    alloc_chrdev_region,
    cdev_add,
    cdev_del,
    unregister_chrdev_region,
)
from ihsm_kmod.kernel.device import class_create, class_destroy, device_create, device_destroy
from ihsm_kmod.kernel.module import Module


class EmptyModule(Module):
    """A module with one node, of the HSM driver's name, whose ioctls all succeed."""

    name = "empty"

    def init(self) -> None:
        """Make the node."""
        self._major = alloc_chrdev_region(0, 1, HSM_CLASS)
        self._class = class_create(HSM_CLASS)
        self._cdev = Cdev(FileOperations(unlocked_ioctl=self._ioctl))
        cdev_add(self._cdev, self._major, 0, 1)
        device_create(self._class, None, self._major, 0, f"{HSM_NODE_PREFIX}0")

    def exit(self) -> None:
        """Remove it."""
        device_destroy(self._class, self._major, 0)
        cdev_del(self._cdev)
        class_destroy(self._class)
        unregister_chrdev_region(self._major)

    def _ioctl(self, file: File, number: int, argument: int) -> int:
        return 0
