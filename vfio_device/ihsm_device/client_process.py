# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Who has a function: the process at the other end of its socket, as the kernel knows it."""

from __future__ import annotations

import os
import select
import socket
import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

_CREDENTIALS: Final = struct.Struct("=iII")
"""struct ucred: pid, uid, gid."""
_DRAINED_BYTES: Final = 1 << 16
EVERYBODY: Final = range(1 << 32)
"""All users that there can be."""


@dataclass(slots=True)
class ClientProcess:
    """The client that is attached to a function, from its connection to its end."""

    pid: int | None
    """None for a process that this one's namespace does not show."""
    uid: int
    name: str | None
    since: datetime
    connection: socket.socket
    """A duplicate of the one that the library serves."""

    @classmethod
    def of(cls, descriptor: int) -> Self:
        """The process that made a connection, of which a duplicate is kept until `close`; raises OSError."""
        connection = socket.socket(fileno=os.dup(descriptor))
        pid, uid = peer(connection)
        return cls(pid or None, uid, _name(pid), datetime.now(UTC), connection)

    def record(self) -> dict[str, Any] | None:
        """The fields for the control socket; None if the client has hung up and its end is merely under way."""
        poller = select.poll()
        try:
            poller.register(self.connection, select.POLLRDHUP)
        except ValueError:  # closed meanwhile
            return None
        if poller.poll(0):
            return None
        return {"pid": self.pid, "name": self.name, "since": self.since.isoformat(timespec="microseconds")}

    def hang_up(self) -> None:
        """End the connection, with all that the client has sent and nobody has read."""
        self.connection.shutdown(socket.SHUT_RDWR)
        while self.connection.recv(_DRAINED_BYTES, socket.MSG_DONTWAIT):
            pass  # descriptors among it are closed by the kernel

    def close(self) -> None:
        """Let go of the connection."""
        self.connection.close()


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process id, 0 for one of another namespace, and user of who made a connection, as of then; raises OSError."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(credentials)
    return pid, uid


def _name(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().strip().decode(errors="backslashreplace") or None
    except OSError:
        return None
