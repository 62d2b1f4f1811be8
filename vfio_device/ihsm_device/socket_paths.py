# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Socket files of the device: claimed only if nobody listens on them, never open to other users."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ihsm_abi.sockets import MAX_PATH_BYTES, default_folder
from ihsm_device.errors import SocketPathTaken, SocketPathTooLong, SocketPathUnusable

PRIVATE_UMASK: Final = 0o177
FOLDER_MODE: Final = 0o700


@contextmanager
def private_files() -> Iterator[None]:
    """Files made meanwhile, by this process's only thread that makes any, are readable by their owner alone."""
    before = os.umask(PRIVATE_UMASK)
    try:
        yield
    finally:
        os.umask(before)


def is_listening(path: Path) -> bool:
    """True if a process accepts connections on the socket `path` (or would, were its backlog not full)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True
        return True


def claim(path: Path) -> None:
    """Make `path` free for a socket: checks its length and folder, and removes a socket that nobody listens on.

    Raises SocketPathTooLong, SocketPathTaken or SocketPathUnusable.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise SocketPathTooLong(os.fspath(path), MAX_PATH_BYTES)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise SocketPathUnusable(os.fspath(path), f"no such folder {os.fspath(path.parent)!r}") from None
        return
    except OSError as error:
        raise SocketPathUnusable(os.fspath(path), error.strerror or str(error)) from None
    if not stat.S_ISSOCK(mode):
        raise SocketPathTaken(os.fspath(path), "a file that is no socket lies there")
    try:
        if is_listening(path):
            raise SocketPathTaken(os.fspath(path), "another process listens there")
        path.unlink()
    except OSError as error:
        raise SocketPathUnusable(os.fspath(path), error.strerror or str(error)) from None


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, mode 0600; raises as `claim` does."""
    claim(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with private_files():
            listener.bind(os.fspath(path))
        listener.listen()
    except OSError as error:
        listener.close()
        raise bind_error(path, error) from None
    return listener


def bind_error(path: Path, error: OSError) -> SocketPathTaken | SocketPathUnusable:
    """What a failed bind means to the user."""
    if error.errno == errno.EADDRINUSE:
        return SocketPathTaken(os.fspath(path), "another process took it just now")
    return SocketPathUnusable(os.fspath(path), error.strerror or str(error))


def make_default_folder() -> None:
    """Create the default folder of sockets, mode 0700; SocketPathUnusable if somebody else's lies in its place."""
    folder = default_folder()
    try:
        folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise SocketPathUnusable(os.fspath(folder), error.strerror or str(error)) from None
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise SocketPathUnusable(os.fspath(folder), "it is not a folder that only you can write to")
