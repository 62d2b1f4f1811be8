# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A state directory belongs to one process at a time, which has it before it changes anything in it or about it."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import Final

from ihsm_device import state_files
from ihsm_device.errors import StateError

_OWNER_ONLY: Final = stat.S_IRWXG | stat.S_IRWXO


class StateLock:
    """The directory is this process's, whichever user that becomes, until `close` or the process's end."""

    def __init__(self, path: Path) -> None:
        """Make the directory if there is none, and lock it.

        Raises:
            StateError: another process has it, or it is another user's, accessible to others, or cannot be used.
        """
        self._descriptor: int | None = None
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = _opened(path)
            try:
                # Root too makes no file in another user's folder: it would keep the owner out.
                require_private(path, os.fstat(folder), os.geteuid())
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                self._descriptor = os.open(state_files.LOCK, flags, 0o600, dir_fd=folder)
            finally:
                os.close(folder)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise StateError(f"{path}: in use by another process") from error
        except OSError as error:
            self.close()
            name = path / state_files.LOCK if error.filename == state_files.LOCK else path
            raise StateError(f"{name}: cannot be used ({error.strerror})") from error

    def close(self) -> None:
        """Let other processes use the directory; harmless the second time."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _opened(path: Path) -> int:
    """The folder at a path, whose last link, if there is one, is root's or this user's."""
    status = path.lstat()
    is_link = stat.S_ISLNK(status.st_mode)
    if is_link and status.st_uid not in (0, os.geteuid()):
        raise StateError(f"{path}: a link of user {status.st_uid}, name the folder itself")
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if is_link else os.O_NOFOLLOW))


def require_private(path: Path, status: os.stat_result, user: int) -> None:
    """Raise StateError if others than `user` own or may enter what `status` describes."""
    if status.st_uid != user:
        raise StateError(f"{path}: belongs to user {status.st_uid}, not to {user}")
    if status.st_mode & _OWNER_ONLY:
        raise StateError(f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets others in, remove their permissions")
