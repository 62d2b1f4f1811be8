# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Device classes, and the devices in them that programs find (linux/device.h)."""

from __future__ import annotations

import errno
from typing import Any

from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.pci_dev import PciDev
from ihsm_kmod.kernel.report import ReportKind, warn, where
from ihsm_kmod.kernel.sysfs import (
    KObject,
    Sysfs,
    kobject_create_and_add,
    kobject_put,
    sysfs_create_file,
    sysfs_create_link,
    sysfs_remove_link,
)
from ihsm_kmod.kernel.task import Core, current


class Device:
    """A device of a class, with its node in /dev."""

    def __init__(self, name: str, number: tuple[int, int], kobj: KObject) -> None:
        """Made by `device_create`."""
        self.name = name
        self.number = number
        self.kobj = kobj
        """Its folder, below that of its parent."""
        self.driver_data: Any = None
        self.created_at = where()


class DeviceClass:
    """A class: /sys/class/NAME."""

    def __init__(self, name: str, kobj: KObject) -> None:
        """Made by `class_create`."""
        self.name = name
        self.kobj = kobj
        self.devices: dict[tuple[int, int], Device] = {}


class Nodes:
    """What is in /dev (Linux: devtmpfs)."""

    def __init__(self, kernel: Core) -> None:
        """Nothing."""
        self.by_name: dict[str, Device] = {}


def class_create(name: str) -> DeviceClass:
    """A new class.

    Raises:
        Errno: EEXIST, there is one of that name.
    """
    return DeviceClass(name, kobject_create_and_add(name, current().kernel.part(Sysfs).classes))


def class_destroy(cls: DeviceClass) -> None:
    """The end of a class; its devices must have been destroyed."""
    for device in tuple(cls.devices.values()):
        text = f"device {device.name} in class {cls.name}, which is destroyed"
        warn(ReportKind.RESOURCE_LEAK, text, device.created_at)
        device_destroy(cls, *device.number)
    kobject_put(cls.kobj)


def device_create(cls: DeviceClass, parent: PciDev | None, major: int, minor: int, name: str) -> Device:
    """A new device: the node /dev/NAME, and its folder in sysfs with the links that lead there.

    Raises:
        Errno: EEXIST, there is one of that name or number.
    """
    sysfs, nodes = current().kernel.part(Sysfs), current().kernel.part(Nodes)
    number = f"{major}:{minor}"
    if (major, minor) in cls.devices or number in sysfs.dev_char.children or name in nodes.by_name:
        raise Errno(errno.EEXIST, f"device {name}, {number}")
    above = parent.kobj if parent else sysfs.virtual
    group = above.children.get(cls.name)
    if not isinstance(group, KObject):
        group = kobject_create_and_add(cls.name, above)
    device = Device(name, (major, minor), kobject_create_and_add(name, group))
    sysfs_create_file(device.kobj, "dev", lambda: f"{number}\n")
    sysfs_create_file(device.kobj, "uevent", lambda: f"MAJOR={major}\nMINOR={minor}\nDEVNAME={name}\n")
    sysfs_create_link(device.kobj, cls.kobj, "subsystem")
    if parent:
        sysfs_create_link(device.kobj, parent.kobj, "device")
    sysfs_create_link(cls.kobj, device.kobj, name)
    sysfs_create_link(sysfs.dev_char, device.kobj, number)
    cls.devices[major, minor] = device
    nodes.by_name[name] = device
    return device


def device_destroy(cls: DeviceClass, major: int, minor: int) -> None:
    """Undo `device_create`; nothing happens if there is no such device, as in Linux."""
    device = cls.devices.pop((major, minor), None)
    if device is None:
        return
    del current().kernel.part(Nodes).by_name[device.name]
    sysfs_remove_link(current().kernel.part(Sysfs).dev_char, f"{major}:{minor}")
    sysfs_remove_link(cls.kobj, device.name)
    group = device.kobj.parent
    kobject_put(device.kobj)
    if group is not None and not group.children:
        kobject_put(group)
