# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The machine's /dev and /sys laid over the host's: what is at a path, and folders that have the names of both.

A program lists a folder through a descriptor, and that has to be a real one. It is of a *shadow*: a folder of ours
with placeholders for what the machine has there, and with links to what the host has.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, NoReturn

from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.sysfs import Attribute, KObject, Link
from ihsm_kmod.kernel.vfs import FOLDER_MODE

DEV: Final = "/dev"
SYS: Final = "/sys"
PROC: Final = "/proc"
"""Has links that mean something else to each process."""
LINK_MODE: Final = stat.S_IFLNK | 0o777
ATTRIBUTE_BYTES: Final = 4096
"""Size that sysfs gives every file."""


@dataclass(frozen=True)
class Found:
    """Something that the machine has at a path; it belongs to whoever runs the machine."""

    path: str
    """Without the links that led there."""
    st_mode: int
    st_size: int = 0
    st_rdev: tuple[int, int] = (0, 0)
    """Of a node: major and minor number."""
    target: str = ""
    """Of a link: where it leads to, from the folder that it is in."""

    @property
    def st_ino(self) -> int:
        """The same for as long as the path is."""
        return zlib.crc32(self.path.encode())

    @property
    def is_folder(self) -> bool:
        """Whether it has names in it, to which the host may have others."""
        return stat.S_ISDIR(self.st_mode)

    @property
    def is_node(self) -> bool:
        """Whether it is a character device."""
        return stat.S_ISCHR(self.st_mode)


class Tree:
    """What is at a path; all are absolute."""

    def __init__(self, kernel: Kernel, shadow: Path) -> None:
        """`shadow` is an empty folder of ours."""
        self.shadow = str(shadow)
        self._vfs = kernel.vfs
        self._lock = threading.Lock()

    def real_path(self, path: str) -> str:
        """What a path means that lies in the shadow, where a program got by a descriptor; any other as it is.

        One that climbs out of /sys or /proc by `..` means what it leads to, if the machine has that.
        """
        path = path[len(self.shadow) :] or "/" if is_below(path, self.shadow) else path
        out = climbed(path)
        return out if out != path and self.look(out, follow=False) is not None else path

    def look(self, path: str, *, follow: bool = True) -> Found | None:
        """What the machine has at a path, itself if it is a link and not to `follow`; None if that is nothing.

        Raises:
            OSError: ENOTDIR, the path leads through a file, or says that it is of a folder.
        """
        is_folder = path.endswith(("/", "/."))
        path = clean(path)
        try:
            found = self._look(path, follow=follow or is_folder)
        except Errno:
            if is_below(path, DEV) and self._has_node_above(path):
                fail(errno.ENOTDIR)
            return None
        if found is not None and is_folder and not found.is_folder:
            fail(errno.ENOTDIR)
        return found

    def _look(self, path: str, *, follow: bool) -> Found | None:
        if is_below(path, DEV):
            node = self._vfs.stat(path)
            return Found(path, node.st_mode, st_rdev=node.st_rdev)
        return self._look_at_sysfs(path, follow=follow) if is_below(path, SYS) else None

    def _has_node_above(self, path: str) -> bool:
        return any(
            self._vfs.exists(str(above)) for above in PurePosixPath(path).parents if str(above) not in (DEV, "/")
        )

    def _look_at_sysfs(self, path: str, *, follow: bool) -> Found:
        entry = self._vfs.sysfs.find(path) if follow else self._vfs.sysfs.entry(path)
        match entry:
            case Link():
                folder, name = posixpath.split(path)
                above = self._vfs.sysfs.find(folder)
                assert isinstance(above, KObject), "what has a link in it is a folder"
                target = posixpath.relpath(entry.target.path, above.path)
                return Found(f"{above.path}/{name}", LINK_MODE, len(target), target=target)
            case Attribute():
                return Found(path, stat.S_IFREG | entry.mode, ATTRIBUTE_BYTES)
        return Found(entry.path, FOLDER_MODE)

    def host_path(self, path: str) -> str:
        """Name that the host's kernel has for what the machine has not, though the path leads through links of that."""
        found = self.look(path)
        if found is not None:
            return found.path
        folder, name = posixpath.split(path.rstrip("/"))
        return f"{self.host_path(folder)}/{name}" if folder not in ("", "/") else path

    def list_folder(self, found: Found) -> Path:
        """A real folder with the names that the machine has in this one, and those that the host has.

        Raises:
            OSError: it cannot be made.
        """
        folder = Path(self.shadow + found.path)
        with self._lock:
            folder.mkdir(parents=True, exist_ok=True)
            ours = set(self._vfs.listdir(found.path))
            present = _names(str(folder))
            wanted = ours | _names(found.path)
            for name in present - wanted:
                _remove(folder / name)
            for name in wanted - present:
                path = f"{found.path}/{name}"
                _place(folder / name, self.look(path, follow=False) if name in ours else None, path)
        return folder


def is_below(path: str, top: str) -> bool:
    """Whether a path is `top`, or below it."""
    return path == top or path.startswith(top + "/")


def clean(path: str) -> str:
    """The path without empty and `.` parts; in /dev, which has no links of the machine, without `..` either."""
    path = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    return posixpath.normpath(path) if is_below(path, DEV) else path


def led(path: str, *, follow: bool) -> str:
    """Where a path of the host's leads if that is to /dev or /sys, by links or by `..`; else the path itself.

    A link at its end counts if it is to `follow`.
    """
    if any(is_below(path, top) for top in (DEV, SYS, PROC)):
        return path
    folder, name = posixpath.split(path)
    is_one = name not in ("", ".", "..") and not follow
    real = f"{os.path.realpath(folder)}/{name}" if is_one else os.path.realpath(path)
    return real if is_below(real, DEV) or is_below(real, SYS) else path


def climbed(path: str) -> str:
    """Where a path leads that climbs out of /sys or /proc by `..`; any other as it is."""
    if "/.." not in path:
        return path
    parts = [part for part in path.split("/") if part not in ("", ".")]
    out = path
    if parts[:2] == [PROC[1:], ".."]:  # deeper are links that mean something else to each process
        out = os.path.realpath("/" + "/".join(parts[2:]))
    elif is_below("/" + parts[0], SYS):
        out = os.path.realpath(path)
    if not is_below(out, DEV):
        return path
    return f"{out}/" if path.endswith(("/", "/.")) else out


def fail(code: int) -> NoReturn:
    """End a call with an error."""
    raise OSError(code, os.strerror(code))


def _names(folder: str) -> set[str]:
    """What is in a folder of the host; nothing if there is none, or nobody may look."""
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _place(place: Path, found: Found | None, path: str) -> None:
    """Make a placeholder for what the machine has, or a link to what the host has."""
    if found is None:
        place.symlink_to(path)
    elif found.is_folder:
        place.mkdir()
    elif found.target:
        place.symlink_to(found.target)
    else:
        place.touch()


def _remove(place: Path) -> None:
    """Remove a placeholder, and what was placed in it."""
    if place.is_dir() and not place.is_symlink():
        for name in _names(str(place)):
            _remove(place / name)
        place.rmdir()
    else:
        place.unlink()
