# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Control socket of a device function: one JSON object per line each way, over PATH.ctl (mode 0600).

A request is ``{"id": any, "command": name, "arguments": {...}}``; its answer is
``{"id": same, "ok": true, "result": {...}}``
or ``{"id": same, "ok": false, "error": {"code": name, "message": text}}``. One connection may send many requests; they
are answered in order.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from ihsm_abi import json_text

SUFFIX: Final = ".ctl"
"""What is appended to a function's socket path to name its control socket."""
MAX_LINE_BYTES: Final = 65536
MAX_MESSAGE_CHARACTERS: Final = 2000
"""Of an error; what a request had that is wrong may be as long as the request."""
SCHEMA_VERSION: Final = 1
DEFAULT_FAULT_WAIT_S: Final = 60.0
"""How long `fault.wait` waits if nothing is said."""
MAX_MARK_CHARACTERS: Final = 1000
MAX_TRACE_READERS: Final = 8
"""Of one function, at a time."""
MAX_FAULT_WAIT_S: Final = 1_000_000.0


class ControlCommand(StrEnum):
    """Commands a control socket knows; docs/control-socket.md has their arguments and results."""

    STATUS = "status"
    FAULT_ADD = "fault.add"
    FAULT_LIST = "fault.list"
    FAULT_CLEAR = "fault.clear"
    FAULT_WAIT = "fault.wait"
    TRACE_START = "trace.start"
    TRACE_MARK = "trace.mark"


class ControlErrorCode(StrEnum):
    """Why a request was refused."""

    BAD_REQUEST = "bad-request"
    UNKNOWN_COMMAND = "unknown-command"
    FAILED = "failed"
    NO_SUCH_FAULT = "no-such-fault"
    TOO_MANY_FAULTS = "too-many-faults"
    COMMAND_SEEN = "command-seen"
    TOO_MANY_READERS = "too-many-readers"
    NO_TRACES = "no-traces"
    TOO_MANY_CONNECTIONS = "too-many-connections"
    NOT_ALLOWED = "not-allowed"


class ControlRefusal(Exception):
    """A command refused for a reason that has a code of its own; the message says which fault, queue or file it is."""

    def __init__(self, code: ControlErrorCode, message: str) -> None:
        """What the answer has."""
        super().__init__(message)
        self.code = code


class ControlProtocolError(ValueError):
    """A line that is no request or answer; the message names what is wrong."""


@dataclass(frozen=True, slots=True)
class ControlRequest:
    """One request line."""

    command: str
    arguments: dict[str, Any] = field(default_factory=dict)
    id: object = None

    def encode(self) -> bytes:
        """The line, with its newline."""
        return _line({"id": self.id, "command": self.command, "arguments": self.arguments})

    @classmethod
    def decode(cls, line: bytes) -> "ControlRequest":
        """Parse a line; raises ControlProtocolError."""
        record = _object(line)
        command, arguments = record.get("command"), record.get("arguments", {})
        if not isinstance(command, str):
            raise ControlProtocolError("command: a string is required")
        if not isinstance(arguments, dict):
            raise ControlProtocolError("arguments: an object is required")
        return cls(command, arguments, record.get("id"))


@dataclass(frozen=True, slots=True)
class ControlAnswer:
    """One answer line: `result` on success, `error_code` and `message` otherwise.

    A refusal whose `id` is None may be of the connection, or of a line that no request could be read from.
    """

    result: dict[str, Any] | None = None
    error_code: str | None = None
    message: str = ""
    id: object = None

    def encode(self) -> bytes:
        """The line, with its newline; where it would be too long, one that says so to nobody in particular."""
        if self.error_code is not None:
            message = self.message
            if len(message) > MAX_MESSAGE_CHARACTERS:
                message = message[: MAX_MESSAGE_CHARACTERS - 3] + "..."
            line = _line({"id": self.id, "ok": False, "error": {"code": self.error_code, "message": message}})
        else:
            line = _line({"id": self.id, "ok": True, "result": self.result or {}})
        if len(line) <= MAX_LINE_BYTES:
            return line
        text = f"answer of {len(line)} bytes exceeds {MAX_LINE_BYTES}"
        return ControlAnswer(error_code=ControlErrorCode.FAILED, message=text).encode()

    @classmethod
    def decode(cls, line: bytes) -> "ControlAnswer":
        """Parse a line; raises ControlProtocolError."""
        record = _object(line)
        if record.get("ok") is True and isinstance(record.get("result"), dict):
            return cls(result=record["result"], id=record.get("id"))
        error = record.get("error")
        if record.get("ok") is False and isinstance(error, dict):
            return cls(error_code=str(error.get("code")), message=str(error.get("message", "")), id=record.get("id"))
        raise ControlProtocolError("neither a result nor an error")


def _line(record: dict[str, Any]) -> bytes:
    return json_text.dump(record).encode() + b"\n"


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise ControlProtocolError(f"line of {len(line)} bytes exceeds {MAX_LINE_BYTES}")
    try:
        record = json_text.parse(line)
    except ValueError as error:
        raise ControlProtocolError(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ControlProtocolError("not a JSON object")
    return record
