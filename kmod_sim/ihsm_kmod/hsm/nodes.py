# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes in /dev: a class with its region of device numbers and its minors, one for HSM and one for management nodes.

Spec 02 A.1. The module makes both when it is loaded; a function takes a minor and makes its node from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ihsm_abi import uapi, uapi_names
from ihsm_kmod.kernel.cdev import (
    Cdev,
    FileOperations,
    alloc_chrdev_region,
    cdev_add,
    cdev_del,
    unregister_chrdev_region,
)
from ihsm_kmod.kernel.device import class_create, class_destroy, device_create, device_destroy
from ihsm_kmod.kernel.idr import Ida, ida_alloc, ida_free
from ihsm_kmod.kernel.pci import PciDev


@dataclass
class Node:
    """A node that programs can open."""

    minor: int
    cdev: Cdev


class NodeClass:
    """A class of nodes; `name` is that of the region of device numbers too, the minor is the number behind `prefix`."""

    def __init__(self, name: str, prefix: str) -> None:
        """Take the device numbers, then make the class; `Errno` when either fails."""
        self.name = name
        self.prefix = prefix
        self._minors = Ida()
        self._major = alloc_chrdev_region(0, uapi.MINOR_COUNT, name)
        try:
            self._class = class_create(name)
        except BaseException:
            unregister_chrdev_region(self._major)
            raise

    def destroy(self) -> None:
        """Undo it; no node may be left."""
        class_destroy(self._class)
        unregister_chrdev_region(self._major)

    def take_minor(self) -> int:
        """The lowest free minor; behind the end of the region as well, for nobody looks where it ends (01 §8.3)."""
        return ida_alloc(self._minors)

    def give_minor(self, minor: int) -> None:
        """Make a minor free again."""
        ida_free(self._minors, minor)

    def create(self, parent: PciDev | None, minor: int, operations: FileOperations) -> Node:
        """The node /dev/PREFIX`minor`, below the function if it is of one; `Errno` leaves nothing."""
        cdev = Cdev(operations)
        cdev_add(cdev, self._major, minor, 1)
        try:
            device_create(self._class, parent, self._major, minor, f"{self.prefix}{minor}")
        except BaseException:
            cdev_del(cdev)
            raise
        return Node(minor, cdev)

    def remove(self, node: Node) -> None:
        """Take the node away; files that are open stay open."""
        device_destroy(self._class, self._major, node.minor)
        cdev_del(node.cdev)


def hsm_nodes() -> NodeClass:
    """The class of /dev/azihsm0, 1, ..."""
    return NodeClass(uapi_names.HSM_CLASS, uapi_names.HSM_NODE_PREFIX)


def mgmt_nodes() -> NodeClass:
    """The class of /dev/azihsm-mgmt0, 1, ..."""
    return NodeClass(uapi_names.MGMT_CLASS, uapi_names.MGMT_NODE_PREFIX)
