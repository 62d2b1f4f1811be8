# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Objects of the kernel as a tree of folders (linux/kobject.h, linux/sysfs.h), with a file for each attribute."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.report import ReportKind, warn, where
from ihsm_kmod.kernel.task import Core, Task, current

READ_ONLY: Final = 0o444
WRITE_ONLY: Final = 0o200
WRITABLE: Final = 0o222
MAX_LINKS: Final = 40
"""Links that a path may lead over (linux/namei.h, MAXSYMLINKS)."""

T = TypeVar("T")
Show = Callable[[], str]
Store = Callable[[str], None]


class Attribute:
    """A file: reading calls `show`, whose text is the file's, and writing calls `store`."""

    def __init__(self, name: str, show: Show | None, store: Store | None, mode: int) -> None:
        """Not in any folder yet."""
        self.name = name
        self.show = show
        self.store = store
        self.mode = mode
        self.users: list[Task] = []
        """Tasks that read or write it now."""

    def __str__(self) -> str:
        """For reports."""
        return f"attribute {self.name}"

    @property
    def owner(self) -> Task | None:
        """One of those whom a removal waits for."""
        return self.users[0] if self.users else None


class KObject:
    """A folder of sysfs, and what it stands for."""

    def __init__(self, name: str, parent: KObject | None) -> None:
        """Made by `kobject_create_and_add`."""
        self.name = name
        self.parent = parent
        self.created_at = where()
        self.children: dict[str, KObject | Attribute | Link] = {}

    @property
    def path(self) -> str:
        """Where it is: /sys/..."""
        return f"{self.parent.path}/{self.name}" if self.parent else f"/{self.name}"


class Link:
    """A symbolic link to another folder."""

    def __init__(self, target: KObject) -> None:
        """It leads there for as long as that is there."""
        self.target = target


Entry = KObject | Attribute | Link


def _target(entry: Entry) -> KObject | Attribute:
    return entry.target if isinstance(entry, Link) else entry


class Sysfs:
    """The tree of one kernel, with the folders that there always are."""

    def __init__(self, kernel: Core) -> None:
        """Nothing but those."""
        self.kernel = kernel
        self.root = KObject("sys", None)
        self.bus_pci = self.folder("bus/pci")
        self.pci_devices = self.folder("bus/pci/devices")
        self.pci_drivers = self.folder("bus/pci/drivers")
        self.pci_root = self.folder("devices/pci0000:00")
        self.virtual = self.folder("devices/virtual")
        self.classes = self.folder("class")
        self.dev_char = self.folder("dev/char")
        self.module = self.folder("module")

    def folder(self, path: str) -> KObject:
        """The folder at a path below /sys, which is made if there is none."""
        found = self.root
        for name in path.split("/"):
            child = found.children.get(name)
            if not isinstance(child, KObject):
                child = KObject(name, found)
                self.add(found, name, child)
            found = child
        return found

    def add(self, parent: KObject, name: str, entry: Entry) -> None:
        """Put something into a folder.

        Raises:
            Errno: EEXIST, there is something of that name.
        """
        with self.kernel.sched.lock:
            if name in parent.children:
                raise Errno(errno.EEXIST, f"sysfs: cannot create duplicate filename '{parent.path}/{name}'")
            parent.children[name] = entry

    def drop(self, parent: KObject, name: str) -> None:
        """Take something out of a folder, and wait for those who read or write in it."""
        with self.kernel.sched.lock:
            entry = parent.children.pop(name, None)
        if isinstance(entry, KObject):
            for child in tuple(entry.children):
                self.drop(entry, child)
        if isinstance(entry, Attribute):
            me = current()
            # Who removes a file from within its own `store` does not wait for itself (device_remove_file_self).
            self.kernel.sched.sleep(lambda: not set(entry.users) - {me}, waits_for=entry)

    def find(self, path: str) -> KObject | Attribute:
        """What is at a path; behind a link, where it leads to.

        Raises:
            Errno: ENOENT, nothing, or nothing of sysfs; ENOTDIR, it goes on behind a file.
        """
        return _target(self.entry(path))

    def entry(self, path: str) -> Entry:
        """What is at a path, itself: a link at its end is not followed; errors as `find`."""
        with self.kernel.sched.lock:
            found: Entry = self.root
            top, *names = path.strip("/").split("/")
            if top != self.root.name:
                raise Errno(errno.ENOENT, path)
            for name in names:
                folder = _target(found)
                if isinstance(folder, Attribute):
                    raise Errno(errno.ENOTDIR, path)
                entry = folder.parent if name == ".." else folder.children.get(name)
                if entry is None:
                    raise Errno(errno.ENOENT, path)
                found = entry
            return found

    def read(self, path: str) -> str:
        """Text of a file.

        Raises:
            Errno: ENOENT, EISDIR, or from its `show`; EACCES, it is only to be written.
        """
        attribute = self._file(path)
        if attribute.show is None:
            raise Errno(errno.EACCES, path)
        return self._use(attribute, attribute.show)

    def write(self, path: str, text: str) -> None:
        """Write to a file.

        Raises:
            Errno: ENOENT, EISDIR, or from its `store`; EACCES, its mode lets nobody write; EIO, there is no `store`
                though it does (Linux: fs/kernfs/file.c, `kobj_attr_store`).
        """
        attribute = self._file(path)
        store = attribute.store
        if store is None:
            raise Errno(errno.EIO if attribute.mode & WRITABLE else errno.EACCES, path)
        self._use(attribute, lambda: store(text))

    def _file(self, path: str) -> Attribute:
        found = self.find(path)
        if isinstance(found, KObject):
            raise Errno(errno.EISDIR, path)
        return found

    def _use(self, attribute: Attribute, call: Callable[[], T]) -> T:
        """Call `show` or `store`; a removal of the file waits meanwhile."""
        task = current()
        with self.kernel.sched.lock:
            attribute.users.append(task)
        try:
            return call()
        finally:
            with self.kernel.sched.lock:
                attribute.users.remove(task)
                self.kernel.sched.wake()


def kobject_create_and_add(name: str, parent: KObject) -> KObject:
    """A new folder.

    Raises:
        Errno: EEXIST, there is something of that name (in Linux: NULL).
    """
    kobj = KObject(name, parent)
    current().kernel.part(Sysfs).add(parent, name, kobj)
    return kobj


def kobject_put(kobj: KObject) -> None:
    """Remove a folder and all in it; returns when nobody reads there any more."""
    parent = kobj.parent
    if parent is None or parent.children.get(kobj.name) is not kobj:
        warn(ReportKind.REFCOUNT, f"kobject_put of '{kobj.name}', which is not there (any more)")
        return
    current().kernel.part(Sysfs).drop(parent, kobj.name)


def sysfs_create_file(
    kobj: KObject, name: str, show: Show | None, store: Store | None = None, mode: int = READ_ONLY
) -> None:
    """A new file.

    Raises:
        Errno: EEXIST, there is something of that name.
    """
    current().kernel.part(Sysfs).add(kobj, name, Attribute(name, show, store, mode))


def sysfs_create_files(kobj: KObject, files: Mapping[str, Show], mode: int = 0o664) -> None:
    """New files that are read; all of them or, with an error, none.

    Raises:
        Errno: EEXIST, there is something of one of these names.
    """
    made = []
    try:
        for name, show in files.items():
            sysfs_create_file(kobj, name, show, mode=mode)
            made.append(name)
    except Errno:
        sysfs_remove_files(kobj, made)
        raise


def sysfs_remove_files(kobj: KObject, names: Mapping[str, object] | list[str]) -> None:
    """Remove files; returns when nobody reads them any more."""
    for name in names:
        current().kernel.part(Sysfs).drop(kobj, name)


def sysfs_create_link(kobj: KObject, target: KObject, name: str) -> None:
    """A link to another folder.

    Raises:
        Errno: EEXIST, there is something of that name.
    """
    current().kernel.part(Sysfs).add(kobj, name, Link(target))


def sysfs_remove_link(kobj: KObject, name: str) -> None:
    """Remove a link."""
    current().kernel.part(Sysfs).drop(kobj, name)
