# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A driver's node, opened: one file, of which a session has one for itself (spec 02 A.3)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ihsm import forks
from ihsm.errors import DeviceNotFoundError, ForkedError, QueueClosedError, RequestRefusedError, UnsupportedDeviceError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ABSENT: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO})
"""What `open` fails with where there is no node, or none with a driver behind it."""


@dataclass(frozen=True, slots=True)
class Calls:
    """System calls on a node; errors are `OSError`. A process of the driver model has the same."""

    open: Callable[[str], int]
    """Path to descriptor."""
    ioctl: Callable[[int, int, WriteableBuffer], int]
    """Descriptor, number and structure, which is read and written."""
    close: Callable[[int], None]


def _open(path: str) -> int:
    """Open what must be a character device: of anything else, opening may have effects of its own."""
    if not stat.S_ISCHR(os.stat(path).st_mode):
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


SYSTEM: Final = Calls(_open, fcntl.ioctl, os.close)


class NodeFile:
    """One open file of a node. Any thread may call it; it is closed when the last call has returned.

    With the file goes its session: the driver flushes that when the file is closed.
    """

    def __init__(self, calls: Calls, path: str, uri: str) -> None:
        """Open the node.

        Raises:
            DeviceNotFoundError: there is no node, or no driver behind it.
            UnsupportedDeviceError: it is no character device.
            RequestRefusedError: it cannot be opened, such as for want of permission.
        """
        self._calls = calls
        self._uri = uri
        self._lock = threading.Lock()
        self._users = 0
        self._closing = self._forked = False
        try:
            self._fd = calls.open(path)
        except OSError as error:
            if error.errno in ABSENT:
                raise DeviceNotFoundError(f"{uri}: no such node, or no driver behind it: {error.strerror}") from None
            if error.errno == errno.ENOTTY:
                raise UnsupportedDeviceError(f"{uri}: no character device") from None
            raise RequestRefusedError(f"{uri}: open", error.errno or 0) from None
        except ValueError as error:  # a path that no file can have
            raise DeviceNotFoundError(f"{uri}: {error}") from None
        forks.watch(self)

    def ioctl(self, number: int, argument: WriteableBuffer) -> int:
        """Have the driver do something; what it returned.

        Raises:
            OSError: of the driver.
            QueueClosedError: the file was closed.
            ForkedError: it is the parent's.
        """
        with self._in_use() as fd:
            return self._calls.ioctl(fd, number, argument)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[int]:
        """The descriptor, which stays this file's for the time of the block."""
        with self._lock:
            if self._forked:
                raise ForkedError(f"{self._uri}: ioctl")
            if self._closing:
                raise QueueClosedError(f"{self._uri}: the file was closed")
            self._users += 1
        try:
            yield self._fd
        finally:
            with self._lock:
                self._users -= 1
                is_last = self._closing and not self._users
            if is_last:
                self._let_go()

    def close(self) -> None:
        """Close it when nobody calls it any more; harmless the second time."""
        with self._lock:
            was_closing, self._closing = self._closing, True
            is_idle = not self._users
        if is_idle and not was_closing:
            self._let_go()

    def forked(self) -> None:
        """In a child of fork(): close the child's descriptor at once, lest it be the last, which flushes nothing."""
        was_open = not self._forked and not (self._closing and not self._users)
        self._lock = threading.Lock()
        self._users, self._closing, self._forked = 0, True, True
        if was_open:
            self._let_go()

    def _let_go(self) -> None:
        with contextlib.suppress(OSError):  # what a release fails with is nobody's
            self._calls.close(self._fd)
