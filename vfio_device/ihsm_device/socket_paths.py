# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Socket files of the device: claimed only if nobody listens on them, never open to other users."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import logging
import os
import socket
import stat
import time
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ihsm_abi.sockets import MAX_PATH_BYTES, default_folder, default_path, is_listening
from ihsm_device.client_process import EVERYBODY
from ihsm_device.errors import SHORTAGES, SocketPathTaken, SocketPathTooLong, SocketPathUnusable
from ihsm_device.limits import BACKLOG

_log = logging.getLogger(__name__)

OWNER_ONLY: Final = 0o600
FOR_ALL: Final = 0o666
FOLDER_MODE: Final = 0o700
LOCK_SUFFIX: Final = ".lock"
LOCK_TIMEOUT_S: Final = 10.0
LOCK_RETRY_S: Final = 0.01

ROOT: Final = 0
"""Always among those who may use a device: it can become any user, so to refuse it would protect nothing."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Who may use a device: users, and the mode of its sockets, which lets them come as far as being looked at."""

    uids: Container[int]
    mode: int = OWNER_ONLY

    @classmethod
    def of(cls, own: Iterable[int], allowed: Iterable[int]) -> Self:
        """The users of the server itself, and others if there are any."""
        others = frozenset(allowed) - frozenset(own)
        return cls(others | frozenset(own), FOR_ALL if others else OWNER_ONLY)


OF_ANY_USER: Final = Clients(EVERYBODY)
"""Whoever the mode lets in."""


@contextmanager
def files_of_mode(mode: int) -> Iterator[None]:
    """Files made meanwhile, by this process's only thread that makes any, may be used by those whom `mode` names."""
    before = os.umask(~mode & 0o777)
    try:
        yield
    finally:
        os.umask(before)


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A socket file that this process made, told by device and inode from one that took its place since."""

    path: Path
    device: int
    inode: int

    @classmethod
    def at(cls, path: Path) -> Self:
        """The file at `path` now."""
        status = path.lstat()
        return cls(path, status.st_dev, status.st_ino)

    def remove(self) -> bool:
        """Remove the file, unless another lies at the path by now; False: it could not be tried."""
        try:
            with _exclusive(self.path):
                if SocketFile.at(self.path) == self:
                    self.path.unlink()
        except (OSError, SocketPathTaken):
            # A left-over socket is harmless: the next server at this path removes it.
            _log.debug("%s stays", self.path, exc_info=True)
            return False
        return True


@contextmanager
def claimed(path: Path, mode: int = OWNER_ONLY) -> Iterator[None]:
    """Have `path` free for a socket to be bound and listened on meanwhile, which will have `mode`.

    Checks the path's length and folder and removes a socket that nobody listens on. Of several processes that want the
    same path one is in here at a time, so that none removes what another has just bound.

    Raises:
        SocketPathTooLong, SocketPathTaken, SocketPathUnusable: the path cannot be had, or an OSError ended the block.
        OSError: the system gives no more descriptors or memory.
    """
    _require_possible(path)
    try:
        with _exclusive(path):
            if _is_left_over(path):
                path.unlink()
            try:
                with files_of_mode(mode):
                    yield
            except BaseException as error:
                # Nothing was there: a socket bound since is ours, but for what came in between.
                if not (isinstance(error, OSError) and error.errno == errno.EADDRINUSE):
                    path.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise _unusable(path, error) from None


def require_free(path: Path) -> None:
    """Nobody has a socket's path, as things stand; nothing is changed.

    Raises:
        SocketPathTooLong, SocketPathTaken, SocketPathUnusable: the path cannot be had.
    """
    _require_possible(path)
    try:
        _is_left_over(path)
    except OSError as error:
        raise _unusable(path, error) from None


def _require_possible(path: Path) -> None:
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise SocketPathTooLong(os.fspath(path), MAX_PATH_BYTES)
    if not path.parent.is_dir() and not path.parent.exists():
        raise SocketPathUnusable(os.fspath(path), f"no such folder {os.fspath(path.parent)!r}")


def _is_left_over(path: Path) -> bool:
    """Whether a socket that nobody listens on lies at a path; SocketPathTaken if it is something else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise SocketPathTaken(os.fspath(path), "a file that is no socket lies there")
    if is_listening(path):
        raise SocketPathTaken(os.fspath(path), "another process listens there")
    return True


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file beside a socket path; nobody keeps it longer than it takes to look, remove and bind.

    Raises:
        SocketPathTaken: another process has held it for `LOCK_TIMEOUT_S`.
        OSError: the file cannot be made.
    """
    name = path.with_name(path.name + LOCK_SUFFIX)
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while (lock := _try_lock(name)) is None:
        if time.monotonic() > deadline:
            raise SocketPathTaken(os.fspath(path), "another process is about to take it")
        time.sleep(LOCK_RETRY_S)
    try:
        yield
    finally:
        name.unlink(missing_ok=True)  # still locked: whoever opened it before sees that it is gone
        os.close(lock)


def _try_lock(name: Path) -> int | None:
    """Descriptor of the lock file, locked; None if another process has it."""
    lock = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = os.fstat(lock)
        there = name.lstat()
        if (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def listen(path: Path, mode: int = OWNER_ONLY) -> tuple[socket.socket, SocketFile]:
    """A listening socket at `path`, and its file; raises as `claimed` does."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with claimed(path, mode):
            listener.bind(os.fspath(path))
            listener.listen(BACKLOG)
            return listener, SocketFile.at(path)
    except BaseException:
        listener.close()
        raise


def _unusable(path: Path, error: OSError) -> Exception:
    """What a failed look, removal or bind means to the user; the error itself where the path is not to blame."""
    if error.errno in SHORTAGES:
        return error
    if error.errno == errno.EADDRINUSE:
        return SocketPathTaken(os.fspath(path), "another process took it just now")
    return SocketPathUnusable(os.fspath(path), error.strerror or str(error))


@contextmanager
def default_paths(count: int) -> Iterator[list[Path]]:
    """The first `count` free paths of the default folder; nobody else chooses from it before the end of the block.

    Raises:
        SocketPathTaken, SocketPathUnusable: the folder cannot be used.
    """
    make_default_folder()
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_exclusive(default_folder() / "choice"))
            free = (path for path in map(default_path, itertools.count()) if not is_listening(path))
            paths = list(itertools.islice(free, count))
        except OSError as error:
            raise _unusable(default_folder(), error) from None
        yield paths


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
