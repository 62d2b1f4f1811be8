# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A server that takes connections and does not answer: what can be known of why, for people.

The kernel completes a connection before anybody has accepted it, so that a server that is stopped, or hangs, looks like
one that is busy with another client. Its control socket and /proc tell them apart.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from struct import Struct
from typing import Final

from ihsm.bus.holder import Holder, ask_status, connect_control
from ihsm_abi.control import ControlProtocolError

FULL: Final = "the server accepts no more connections; it may be stopped or hang"
"""Of a socket whose queue of those who wait to be accepted is full."""
PROC: Final = Path("/proc")
_CREDENTIALS: Final = Struct("3i")
"""struct ucred of unix(7): process, user, group."""
_STOPPED: Final = "Tt"
"""States of proc_pid_stat(5): by a signal, or by a debugger."""


def explain(socket_path: str | os.PathLike[str]) -> str:
    """Why the server at a socket path may say nothing to whoever has connected there."""
    try:
        with connect_control(socket_path) as control:
            try:
                result = ask_status(control).result or {}
            except TimeoutError:
                return describe(control)
            if (holder := Holder.parse(result.get("client"))) is not None:
                return f"{holder} has the device"
            if result.get("client", "") is None:
                return f"no other client has the device; {describe(control)}"
    except BlockingIOError:
        return FULL
    except (OSError, ControlProtocolError):  # it has no control socket, or another kind of one
        pass
    return "another client may have the device, or the server is stopped or hangs"


def describe(connection: socket.socket) -> str:
    """What to say of a server that has not answered on a connection to it."""
    said = "the server accepts connections but does not answer"
    pid, _, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:  # of another namespace, hidden from us, or gone: others may have its socket
        return f"{said}; it may be stopped or hang"
    name, _, fields = text.partition("(")[2].rpartition(") ")
    return f"{said}; its process {pid} ({name}) {'is stopped' if fields[0] in _STOPPED else 'may hang'}"
