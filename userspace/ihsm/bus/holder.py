# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Who has a served function: a question to its control socket, which disturbs nobody."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from ihsm_abi.control import (
    MAX_LINE_BYTES,
    SUFFIX,
    ControlAnswer,
    ControlCommand,
    ControlErrorCode,
    ControlProtocolError,
    ControlRequest,
)

TIMEOUT_S: Final = 1.0
"""For the whole conversation: whoever asks has something else to do."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The client of a function."""

    pid: int | None
    """None for a process that the server does not see."""
    name: str | None
    since: datetime

    @classmethod
    def parse(cls, record: object) -> Self | None:
        """The field `client` of a function's status; None if it says that there is none, or makes no sense."""
        if not isinstance(record, dict):
            return None
        pid, name, since = record.get("pid"), record.get("name"), record.get("since")
        try:
            begin = datetime.fromisoformat(since) if isinstance(since, str) else None
        except ValueError:
            return None
        if begin is None or begin.tzinfo is None:
            return None
        return cls(pid if type(pid) is int else None, name if isinstance(name, str) else None, begin)

    def __str__(self) -> str:
        """For people: who, and since when in their own time."""
        who = f"process {self.pid}" if self.pid is not None else "a process of another namespace"
        return f"{who} ({self.name or '?'}) since {self.since.astimezone():%Y-%m-%d %H:%M:%S}"

    def record(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return {"pid": self.pid, "name": self.name, "since": self.since.isoformat()}


def find_user(node: Path) -> str:
    """Who has a device node open, for people; the kernel does not say since when."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                if any(os.readlink(file) == os.fspath(node) for file in (process / "fd").iterdir()):
                    return f"process {process.name} ({(process / 'comm').read_text().strip()})"
            except OSError:  # somebody else's, or gone meanwhile
                continue
    return "a process that we may not look at"


def find_holder(socket_path: str | os.PathLike[str]) -> Holder | None:
    """The client of the function at a socket path; None if it has none or its server does not say."""
    answer = _ask(socket_path)
    return Holder.parse((answer.result or {}).get("client")) if answer else None


def find_prohibition(socket_path: str | os.PathLike[str]) -> str | None:
    """Why this user may not use the function at a socket path; None if its server does not say so."""
    answer = _ask(socket_path)
    return answer.message if answer and answer.error_code == ControlErrorCode.NOT_ALLOWED else None


def connect_control(socket_path: str | os.PathLike[str]) -> socket.socket:
    """A connection to the control socket beside a function's socket.

    Raises:
        BlockingIOError: too many wait for the server to accept them.
        OSError: nobody listens there.
    """
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        control.settimeout(TIMEOUT_S)
        control.connect(os.fspath(socket_path) + SUFFIX)
    except BaseException:
        control.close()
        raise
    return control


def ask_status(control: socket.socket) -> ControlAnswer:
    """What the server says to a request for the status.

    Raises:
        TimeoutError: nothing.
        OSError, ControlProtocolError: nothing proper.
    """
    deadline = time.monotonic() + TIMEOUT_S
    with contextlib.suppress(ConnectionError):  # refused already, and what it says about that can be read
        control.sendall(ControlRequest(ControlCommand.STATUS).encode())
    received = b""
    while not received.endswith(b"\n"):
        if len(received) > MAX_LINE_BYTES or time.monotonic() > deadline:
            raise ControlProtocolError("no proper answer")
        data = control.recv(MAX_LINE_BYTES)
        if not data:
            raise ControlProtocolError("no answer")
        received += data
    return ControlAnswer.decode(received)


def _ask(socket_path: str | os.PathLike[str]) -> ControlAnswer | None:
    """What the server says to a request for the status; None if nothing, or nothing proper."""
    try:
        with connect_control(socket_path) as control:
            return ask_status(control)
    except (OSError, ControlProtocolError):
        return None
