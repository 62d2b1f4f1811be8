# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Folders and files that are private to one user, and are replaced whole whenever the process or the machine stops.

A file is written beside its place under one name that is always the same, put on the disk, renamed, and the folder put
on the disk, before the caller is answered. What a killed writer left has that name and is removed by the next writer,
who holds the lock. Everything is reached through a descriptor of its folder, so that a folder which is exchanged for
another meanwhile, or for a link, is never written to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ihsm.errors import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreNotFoundError,
    StorePermissionError,
)
from ihsm.locks import try_lock, unlock

TEMPORARY: Final = ".new"
"""Name under which a file is written before it has its own."""
LOCK: Final = "lock"
LOCK_WAIT_S: Final = 30.0
"""How long a change waits for others: each takes milliseconds, one that sets a PIN about a second."""
_LOOK_EVERY_S: Final = 0.002
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Neither is a link followed nor a pipe waited for."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_ACCESS: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


def store_error(path: Path, what: str, error: OSError) -> StoreError:
    """The store's error for one of the system's: `path` cannot be `what`."""
    text = f"{path}: cannot be {what}: {error.strerror or error}"
    if error.errno in _NO_ACCESS:
        return StorePermissionError(f"{text}; you need to be able to read and write it")
    if error.errno in _NO_ROOM:
        return StoreError(f"{text}; nothing was changed: make room and repeat it")
    if error.errno == errno.ENOENT:
        return StoreNotFoundError(text)
    return StoreError(text)


@contextlib.contextmanager
def errors_of(path: Path, what: str) -> Iterator[None]:
    """The system's errors become the store's, as `store_error` has it."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise store_error(path, what, error) from None


def sync_folder(path: Path, descriptor: int) -> None:
    """Put an open folder on the disk.

    Raises:
        StoreError: that fails, when what was changed in it has been changed, and cannot be taken back for certain.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        text = "what was changed in it is there, but may not outlast a failure of power"
        raise StoreError(f"{path}: cannot be put on the disk: {error.strerror or error}; {text}") from None


def sync_folder_at(path: Path) -> None:
    """Put a folder on the disk, of whomever it is; raises OSError if it cannot be opened, else as `sync_folder`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync_folder(path, descriptor)
    finally:
        os.close(descriptor)


class Folder:
    """An open folder of the user's own, which nobody else can enter; a context manager."""

    def __init__(self, path: Path, descriptor: int) -> None:
        """Made by `open_folder` and `Folder.folder`."""
        self.path = path
        self.descriptor = descriptor

    def __enter__(self) -> Folder:
        """Use the folder."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self.descriptor)

    def folder(self, name: str) -> Folder:
        """A folder in this one; errors as `open_folder`."""
        return open_folder(self.path / name, name, self.descriptor)

    def names(self) -> list[str]:
        """What is in the folder, in no order."""
        return os.listdir(self.descriptor)

    def has(self, name: str) -> bool:
        """Whether there is something of this name."""
        try:
            os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def read(self, name: str, longest: int) -> bytes:
        """What is in a file of at most `longest` bytes.

        Raises:
            FileNotFoundError: there is none.
            StorePermissionError: it is not ours, or open to others, or a link, or cannot be read.
            StoreDamagedError: no regular file, or longer.
            StoreError: the system cannot read it.
        """
        path = self.path / name
        try:
            return self._read(path, name, longest)
        except StoreError:
            raise
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise
            raise (_link(path) if error.errno == errno.ELOOP else store_error(path, "read", error)) from None

    def _read(self, path: Path, name: str, longest: int) -> bytes:
        descriptor = os.open(name, _FILE, dir_fd=self.descriptor)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StoreDamagedError(f"{path}: no regular file")
            require_private(path, status, 0o600)
            data = _read_all(descriptor, longest + 1)
        finally:
            os.close(descriptor)
        if len(data) > longest:
            raise StoreDamagedError(f"{path}: longer than {longest} bytes")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Replace a file or make it, durably; the caller has the lock.

        Raises:
            StoreError: it cannot be written; what was there is there, unless the error is that of `sync`.
        """
        with errors_of(self.path / name, "written"):
            self.clean()
            try:
                self._write_beside(data)
                os.rename(TEMPORARY, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
            except BaseException:
                with contextlib.suppress(OSError):
                    self.clean()
                raise
            self.sync()

    def _write_beside(self, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(TEMPORARY, flags, 0o600, dir_fd=self.descriptor)
        try:
            os.fchmod(descriptor, 0o600)  # whatever the mask is
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, durably; one that had it is replaced."""
        os.rename(old, new, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        self.sync()

    def remove(self, name: str) -> None:
        """Remove a file, durably."""
        os.unlink(name, dir_fd=self.descriptor)
        self.sync()

    def clean(self) -> None:
        """Remove what a killed writer left."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(TEMPORARY, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Put the folder on the disk.

        Raises:
            StoreError: that fails, when what was changed in it has been changed.
        """
        sync_folder(self.path, self.descriptor)


def open_folder(path: Path, name: str | None = None, parent: int | None = None) -> Folder:
    """A folder of the user's own; `name` in the open folder `parent`, where that is given.

    Raises:
        FileNotFoundError: there is none.
        StorePermissionError: a link, not ours, or open to others.
        StoreDamagedError: no folder.
        StoreError: the system cannot open it.
    """
    target = os.fspath(path) if name is None else name
    try:
        descriptor = os.open(target, _FOLDER, dir_fd=parent)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            status = os.stat(target, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(status.st_mode):
                raise _link(path) from None
            raise StoreDamagedError(f"{path}: no folder") from None
        if error.errno == errno.ENOENT:
            raise
        raise store_error(path, "opened", error) from None
    try:
        require_private(path, os.fstat(descriptor), 0o700)
    except StoreError:
        os.close(descriptor)
        raise
    return Folder(path, descriptor)


def require_private(path: Path, status: os.stat_result, mode: int) -> None:
    """Refuse what others own or may enter; `mode` is what the file should have.

    Raises:
        StorePermissionError: what is wrong, and the command that mends it.
    """
    if status.st_uid != os.geteuid():
        raise StorePermissionError(f"{path}: belongs to user {status.st_uid}, you are user {os.geteuid()}")
    if status.st_mode & _OTHERS:
        raise StorePermissionError(
            f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets others in: chmod {mode:o} '{path}'"
        )


@contextlib.contextmanager
def locked(folder: Folder, name: str = LOCK) -> Iterator[None]:
    """Hold the lock of a folder, alone among all threads and processes, for a short change.

    Raises:
        StoreBusyError: another program held it for LOCK_WAIT_S.
        OSError: it cannot be had.
    """
    path = folder.path / name
    end = time.monotonic() + LOCK_WAIT_S
    while True:
        descriptor = open_lock(folder, name)
        try:
            require_private(path, os.fstat(descriptor), 0o600)
            if try_lock(descriptor) and _is_named(folder, name, descriptor):
                yield
                return
        finally:
            unlock(descriptor)
            os.close(descriptor)
        if time.monotonic() > end:
            raise StoreBusyError(f"{path}: held by another program for {LOCK_WAIT_S:g} s; repeat it later")
        time.sleep(_LOOK_EVERY_S)


def open_lock(folder: Folder, name: str = LOCK) -> int:
    """A descriptor of a lock file, which is made if there is none; raises OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags, 0o600, dir_fd=folder.descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _link(folder.path / name) from None
        raise


def _is_named(folder: Folder, name: str, descriptor: int) -> bool:
    """Whether the open file is still the one of this name, and not one that was removed while it was waited for."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=folder.descriptor, follow_symlinks=False))
    except FileNotFoundError:
        return False


def is_at_its_path(folder: Folder) -> bool:
    """Whether the open folder is still what its path names: others may have renamed or deleted it."""
    try:
        return os.path.samestat(os.fstat(folder.descriptor), os.stat(folder.path, follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return False


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of some bytes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _read_all(descriptor: int, longest: int) -> bytes:
    parts = []
    while longest and (part := os.read(descriptor, min(longest, 1 << 20))):
        parts.append(part)
        longest -= len(part)
    return b"".join(parts)


def _link(path: Path) -> StorePermissionError:
    return StorePermissionError(f"{path}: a symbolic link, which may lead to what others change; put the file there")
