# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Errors of the device process that a user can cause; each message names what is wrong and how to mend it."""


class DeviceError(Exception):
    """Base of every error the device reports to the person who started it."""


class SocketPathTooLong(DeviceError):
    """A socket path that does not fit the kernel's address structure."""

    def __init__(self, path: str, limit: int) -> None:
        """`limit` is the longest path in bytes."""
        super().__init__(f"socket path {path!r} has {len(path.encode())} bytes, the limit is {limit}: choose another")


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
