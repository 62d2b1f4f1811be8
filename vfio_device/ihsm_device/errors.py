# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of the device process that a user can cause; each message names what is wrong and how to mend it."""

import errno
import os
from typing import Final

SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""What a call of the system fails with when there is too little of something, whatever was asked for."""


class DeviceError(Exception):
    """Base of every error the device reports to the person who started it."""


class SocketPathTooLong(DeviceError):
    """A socket path that does not fit the kernel's address structure."""

    def __init__(self, path: str, limit: int) -> None:
        """`limit` is the longest path in bytes."""
        length = len(os.fsencode(path))
        super().__init__(f"socket path {path!r} has {length} bytes, the limit is {limit}: choose another")


class SocketPathTaken(DeviceError):
    """A socket path that another process listens on, or that is no socket."""

    def __init__(self, path: str, what: str) -> None:
        """`what` says who or what holds the path."""
        super().__init__(f"socket path {path!r} is taken: {what}")


class SocketPathUnusable(DeviceError):
    """A socket path whose folder is missing or closed to us."""

    def __init__(self, path: str, reason: str) -> None:
        """`reason` is the system's own words."""
        super().__init__(f"socket path {path!r} cannot be used: {reason}")


class StateError(DeviceError):
    """The state directory cannot be used; the text is one line that names the path and what is wrong."""


class FaultFileUnusable(DeviceError):
    """A file of faults that cannot be read, or holds something else."""

    def __init__(self, path: str, reason: str) -> None:
        """`reason` says what is wrong, and with which of the faults."""
        super().__init__(f"faults {path!r}: {reason}")


class NoSuchUser(DeviceError):
    """A user whom the system does not know."""

    def __init__(self, name: str) -> None:
        """`name` is what was asked for."""
        super().__init__(f"there is no user {name!r}")


class UserUnusable(DeviceError):
    """A user whom the process was told to become, and cannot."""

    def __init__(self, name: str, reason: str) -> None:
        """`reason` is what is in the way."""
        super().__init__(f"the device cannot become user {name!r}: {reason}")
