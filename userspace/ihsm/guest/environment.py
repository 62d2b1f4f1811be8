# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The files that Python programs of a guest are made of: what of this machine goes into images, see `images`.

There are two parts. One changes seldom: the interpreter, what it is linked with, the standard library, the packages
installed beside it. The other is what is being worked on: folders that an editable installation names in .pth files.
Whatever is left out, the guest finds over 9p as it does the rest of the machine, only later.
"""

from __future__ import annotations

import os
import re
import shutil
import site
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

Stamps = dict[str, os.stat_result]
"""Path, with no symbolic link in it but the last part -> what lstat(2) tells. No folders."""


class Part(StrEnum):
    """What an image is of; the guest knows its disk by this serial number."""

    PYTHON = "ihsm.python"
    PROJECT = "ihsm.project"


PROGRAMS: Final = ("sh", "bash", "env", "modprobe")
"""What nearly every command begins with."""
LOADER_CACHE: Final = Path("/etc/ld.so.cache")
LOCALE: Final = Path("/usr/lib/locale/C.utf8")
"""The one that Python sets itself to where none is asked for."""
MAX_DATA_BYTES: Final = 64 << 10
"""Longer files are programs and data that come with packages; sources and libraries may be of any length."""
MAX_ROOT_FILES: Final = 20_000
"""A folder of a .pth file that has more is no package's, but somebody's home or the like."""
_LEFT_OUT: Final = frozenset({"__pycache__", "node_modules"})
_LIBRARY: Final = re.compile(r"(?:=>\s+|^\s*)(/\S+)\s+\(0x", re.MULTILINE)
_LDD_LIMIT_S: Final = 60


def python_roots() -> list[Path]:
    """Folders of the standard library and of installed packages."""
    return _folders([os.path.dirname(os.__file__), *site.getsitepackages()])


def project_roots() -> list[Path]:
    """Folders that .pth files of installed packages name, and that lie in none of `python_roots`."""
    installed = python_roots()
    named = []
    for folder in installed:
        for file in sorted(folder.glob("*.pth")):
            try:
                lines = file.read_text().splitlines()
            except (OSError, UnicodeError):
                continue
            # Other lines are executed (documentation of the module site).
            named += [os.path.join(folder, line) for line in lines if line and not line.startswith(("#", "import"))]
    return [root for root in _folders(named) if not any(root.is_relative_to(other) for other in installed)]


def scan(part: Part) -> Stamps:
    """Files of a part as they are now, without the libraries that programs are linked with."""
    if part is Part.PROJECT:
        return {path: status for root in project_roots() for path, status in _limited(_files(os.fspath(root)))}
    stamps: Stamps = {}
    for root in python_roots():
        stamps.update(_files(os.fspath(root)))
    stamps.update(_files(os.fspath(LOCALE)))
    beside = Path(sys.executable).parent
    stamps.update(stamp(_plain_files(beside)))
    found = [shutil.which(name, path=f"{os.defpath}:/usr/sbin:/sbin") for name in PROGRAMS]
    stamps.update(stamp(link for program in (sys.executable, *found) if program for link in _chain(program)))
    stamps.update(stamp([os.fspath(LOADER_CACHE), os.fspath(beside.parent / "pyvenv.cfg")]))
    return stamps


def stamp(paths: Iterable[str]) -> Stamps:
    """Those of the files that are there."""
    stamps = {}
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            stamps[os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))] = status
    return stamps


def linked_libraries(stamps: Stamps) -> list[str]:
    """Libraries outside `stamps` that its programs and shared objects are linked with, and the links to them.

    None without ldd(1).
    """
    objects = [path for path, status in stamps.items() if stat.S_ISREG(status.st_mode) and _is_object(path, status)]
    try:
        done = subprocess.run(
            ["ldd", *objects],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=_LDD_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    found = {link for path in set(_LIBRARY.findall(done.stdout)) for link in _chain(path)}
    return sorted(found - set(stamps))


def _is_object(path: str, status: os.stat_result) -> bool:
    return ".so" in os.path.basename(path) or bool(status.st_mode & stat.S_IXUSR and _has_magic(path))


def _has_magic(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(4) == b"\x7fELF"
    except OSError:
        return False


def _folders(paths: Sequence[str]) -> list[Path]:
    """Those that are there, with no symbolic link in their path, each once."""
    found = dict.fromkeys(Path(os.path.realpath(path)) for path in paths)
    return [path for path in found if path.is_dir()]


def _files(root: str) -> Iterator[tuple[str, os.stat_result]]:
    """Files and symbolic links below a folder that Python programs load."""
    waiting = [root]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:
            continue
        for entry in entries:
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # gone meanwhile
                continue
            if stat.S_ISDIR(status.st_mode):
                if entry.name not in _LEFT_OUT and not entry.name.startswith("."):
                    waiting.append(entry.path)
            elif stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and _is_wanted(entry.name, status)):
                yield entry.path, status


def _is_wanted(name: str, status: os.stat_result) -> bool:
    return status.st_size <= MAX_DATA_BYTES or name.endswith(".py") or ".so" in name


def _limited(files: Iterator[tuple[str, os.stat_result]]) -> Iterator[tuple[str, os.stat_result]]:
    """The files of a folder; none if there are too many."""
    found = []
    for each in files:
        found.append(each)
        if len(found) > MAX_ROOT_FILES:
            return
    yield from found


def _plain_files(folder: Path) -> list[str]:
    """Scripts and links of a folder of programs, but not those in its folders."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    return [
        entry.path
        for entry in entries
        if entry.is_symlink() or (entry.is_file() and _is_wanted(entry.name, entry.stat()))
    ]


def _chain(path: str) -> list[str]:
    """A file and the symbolic links that lead to it."""
    found = []
    while path not in found:
        found.append(path)
        try:
            target = os.readlink(path)
        except OSError:
            break
        path = os.path.join(os.path.realpath(os.path.dirname(path)), target)
    return found
