# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of the device process that a user can cause; each message names what is wrong and how to mend it."""

import errno
import os

_LIMITS = {
    errno.EMFILE: "too many open files: raise the limit (ulimit -n) or serve fewer functions",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOMEM: "not enough memory",
    errno.EAGAIN: "the system refused a thread or memory for now",
}


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


class StartError(DeviceError):
    """The process could not get what it needs from the system: threads, descriptors, memory."""

    def __init__(self, cause: Exception) -> None:
        """`cause` is what a call of Python or of the system failed with."""
        super().__init__(f"the device cannot start: {_explain(cause)}")


def _explain(cause: Exception) -> str:
    if isinstance(cause, MemoryError):
        return _LIMITS[errno.ENOMEM]
    if isinstance(cause, OSError):
        return _LIMITS.get(cause.errno or 0, cause.strerror or str(cause) or type(cause).__name__)
    text = " ".join(str(cause).split())
    if "start new thread" in text:
        return "no more threads are allowed: raise the limit (ulimit -u, or the container's limit of processes)"
    return text or type(cause).__name__
