# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Client of a function's control socket (`ihsm_abi.control`)."""

from __future__ import annotations

import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Final

from ihsm import forks
from ihsm.arguments import integer, seconds
from ihsm.closing import Closing
from ihsm.errors import (
    PROTOCOL,
    ArgumentError,
    ArgumentTypeError,
    CommandSeenError,
    ControlError,
    DeviceForbiddenError,
    DeviceNotFoundError,
    FaultNotFoundError,
    FaultNotHitError,
    ForkedError,
    ResourceError,
)
from ihsm_abi.control import (
    DEFAULT_FAULT_WAIT_S,
    MAX_FAULT_WAIT_S,
    MAX_LINE_BYTES,
    SUFFIX,
    ControlAnswer,
    ControlCommand,
    ControlErrorCode,
    ControlProtocolError,
    ControlRequest,
)
from ihsm_abi.fault_actions import MAX_COUNT
from ihsm_abi.sockets import MAX_PATH_BYTES

# Loaded when used: most who ask a device for something know nothing of faults, and get an answer.
if TYPE_CHECKING:
    from ihsm_abi.faults import Fault, StandingFault

DEFAULT_TIMEOUT_S: Final = 10.0
MAX_TIMEOUT_S: Final = 1_000_000
STREAM_BYTES: Final = 1 << 20
"""What is received of a stream at once."""


class ControlClient(Closing):
    """Connection to the control socket beside a function's vfio-user socket; one request at a time."""

    def __init__(self, socket_path: str | os.PathLike[str], timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Connect.

        Args:
            socket_path: the function's vfio-user socket; the control socket's name follows from it.
            timeout_s: longest wait for an answer, in seconds.

        Raises:
            DeviceNotFoundError: nobody listens there.
            ControlError: so many wait to be accepted that no more can.
        """
        if not isinstance(socket_path, str | os.PathLike):
            raise ArgumentTypeError("ControlClient", "socket_path", f"{type(socket_path).__name__}, must be a path")
        self.path = os.fspath(socket_path) + SUFFIX
        self._timeout_s = seconds("ControlClient", "timeout_s", timeout_s)
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise ArgumentError("ControlClient", "timeout_s", f"{timeout_s:g}, 0 to {MAX_TIMEOUT_S} possible")
        if "\0" in self.path:
            raise ArgumentError("ControlClient", "socket_path", f"{self.path!r} names no socket")
        self._number = 0
        self._received = b""
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError as error:
            raise ResourceError(f"{self.path}: a socket: {error.strerror}", error.errno or 0) from None
        self._socket.settimeout(self._timeout_s)
        if len(os.fsencode(self.path)) > MAX_PATH_BYTES:
            self._socket.close()
            raise DeviceNotFoundError(f"{self.path}: longer than a socket path can be")
        try:
            self._socket.connect(self.path)
        except BlockingIOError:
            from ihsm.bus import silence

            self._socket.close()
            raise ControlError(PROTOCOL, f"{self.path}: {silence.FULL}") from None
        except OSError as error:
            self._socket.close()
            raise DeviceNotFoundError(f"{self.path}: {error.strerror or error}") from None
        self._forked = False
        forks.watch(self)

    def forked(self) -> None:
        """In a child of fork(): close its copy of the socket, while the parent's conversation goes on."""
        self._forked = True
        self._socket.close()

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a command and return its result.

        Raises:
            ControlError: refused, or no proper answer in time.
            DeviceForbiddenError: this user may not use the device.
            ForkedError: the connection is the parent's.
        """
        return self._call(command, arguments, self._timeout_s)

    def _call(self, command: str, arguments: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if self._forked:
            raise ForkedError(f"{self.path}: {command}")
        try:
            request = ControlRequest(command, arguments, self._number + 1).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentTypeError("ControlClient.call", "arguments", f"no JSON: {error}") from None
        self._number += 1
        try:
            self._socket.settimeout(timeout_s)
            answer = ControlAnswer.decode(self._exchange(request, timeout_s))
        except ControlProtocolError as error:
            raise ControlError(PROTOCOL, f"{self.path}: {error}") from None
        except TimeoutError:
            from ihsm.bus import silence

            why = silence.describe(self._socket)
            raise ControlError(PROTOCOL, f"{self.path}: no answer within {timeout_s:g} s: {why}") from None
        except OSError as error:
            raise ControlError(PROTOCOL, f"{self.path}: {error.strerror}") from None
        if answer.error_code == ControlErrorCode.NOT_ALLOWED:
            raise DeviceForbiddenError(f"{self.path}: {answer.message}")
        if answer.id != self._number and not (answer.error_code is not None and answer.id is None):
            raise ControlError(PROTOCOL, f"{self.path}: answer to request {answer.id!r}, {self._number} expected")
        if answer.error_code is not None:
            raise ControlError(answer.error_code, answer.message)
        return answer.result or {}

    def status(self) -> dict[str, Any]:
        """State of the function and its process."""
        return self.call(ControlCommand.STATUS)

    def add_fault(self, fault: Fault) -> int:
        """Have the function do something wrong from now on; the number by which the fault is known.

        It stays until it is cleared or the device's process ends, whoever is connected.

        Raises:
            ControlError: the device has too many, or knows none of the kind.
        """
        from ihsm_abi.faults import Fault

        if not isinstance(fault, Fault):
            raise ArgumentTypeError("ControlClient.add_fault", "fault", f"{type(fault).__name__}, must be a Fault")
        return _number(self.call(ControlCommand.FAULT_ADD, **fault.to_json()), "id")

    def faults(self) -> list[StandingFault]:
        """The faults that stand, in the order of their numbers."""
        from ihsm_abi.faults import StandingFault

        result = self.call(ControlCommand.FAULT_LIST)
        try:
            return [StandingFault.from_json(entry) for entry in result["faults"]]
        except (LookupError, TypeError, ValueError) as error:
            raise ControlError(PROTOCOL, f"{self.path}: no list of faults: {error!r}") from None

    def clear_fault(self, number: int) -> None:
        """End a fault.

        Raises:
            CommandSeenError: it is a command that must never be seen, and was; the fault has ended.
            FaultNotFoundError: there is none of this number.
        """
        number = integer("ControlClient.clear_fault", "number", number, 1, MAX_COUNT)
        _refuse_seen(self._of_fault(ControlCommand.FAULT_CLEAR, {"id": number}, self._timeout_s))

    def clear_faults(self) -> int:
        """End all faults but those of the device's start; how many there were.

        Raises:
            CommandSeenError: one was a command that must never be seen, and was; the faults have ended.
        """
        result = self.call(ControlCommand.FAULT_CLEAR)
        _refuse_seen(result)
        return _number(result, "cleared")

    def wait_fault(self, number: int, hits: int = 1, timeout_s: float = DEFAULT_FAULT_WAIT_S) -> int:
        """Wait until a fault has been hit so often since it was added; how often it has.

        Of a command that must never be seen, wait for so long that it is not.

        Raises:
            CommandSeenError: one of the function's commands that must never be seen was, whichever fault is waited for.
            FaultNotHitError: it was hit less often within `timeout_s` seconds.
            FaultNotFoundError: there is none of this number, or not any more.
        """
        operation = "ControlClient.wait_fault"
        timeout_s = seconds(operation, "timeout_s", timeout_s)
        if not 0 <= timeout_s <= MAX_FAULT_WAIT_S:
            raise ArgumentError(operation, "timeout_s", f"{timeout_s:g}, 0 to {MAX_FAULT_WAIT_S:g} possible")
        number = integer(operation, "number", number, 1, MAX_COUNT)
        hits = integer(operation, "hits", hits, 1, MAX_COUNT)
        arguments = {"id": number, "hits": hits, "timeout_s": timeout_s}
        result = self._of_fault(ControlCommand.FAULT_WAIT, arguments, self._timeout_s + timeout_s)
        seen = _number(result, "hits")
        if seen < hits and not result.get("reached"):
            raise FaultNotHitError(f"fault {number}: {seen} of {hits} hits within {timeout_s:g} s")
        return seen

    def mark(self, text: str) -> bool:
        """Put a word into the function's trace; whether anybody records one."""
        return self.call(ControlCommand.TRACE_MARK, text=text).get("recorded") is True

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._socket.fileno()

    def receive(self, timeout_s: float | None) -> bytes | None:
        """Of a connection that has become a stream: the next bytes; none at its end, None if the time is over.

        `timeout_s` in seconds, None for ever.

        Raises:
            ForkedError: the connection is the parent's.
        """
        if self._forked:
            raise ForkedError(f"{self.path}: receive")
        if self._received:
            rest, self._received = self._received, b""
            return rest
        try:
            poller = select.poll()
            poller.register(self._socket, select.POLLIN)
            return (
                self._socket.recv(STREAM_BYTES)
                if poller.poll(None if timeout_s is None else timeout_s * 1000)
                else None
            )
        except OSError:
            return b""

    def _of_fault(self, command: str, arguments: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        try:
            return self._call(command, arguments, timeout_s)
        except ControlError as error:
            if error.code == ControlErrorCode.COMMAND_SEEN:
                raise CommandSeenError(error.message) from None
            if error.code != ControlErrorCode.NO_SUCH_FAULT:
                raise
        raise FaultNotFoundError(f"{self.path}: there is no fault {arguments['id']}")

    def _exchange(self, request: bytes, timeout_s: float) -> bytes:
        """The line that answers a request.

        A server that has refused the connection says so, and may have hung up before it has the request.
        """
        try:
            self._socket.sendall(request)
        except ConnectionError as error:
            try:
                return self._read_line(timeout_s)
            except ControlProtocolError:
                raise error from None
        return self._read_line(timeout_s)

    def _read_line(self, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._received:
            if len(self._received) > MAX_LINE_BYTES:
                raise ControlProtocolError(f"answer exceeds {MAX_LINE_BYTES} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError
            data = self._socket.recv(MAX_LINE_BYTES)
            if not data:
                raise ControlProtocolError("connection closed before the answer")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def _refuse_seen(result: dict[str, Any]) -> None:
    """Raise CommandSeenError for what an answer has of commands that must never be seen."""
    if seen := result.get("seen"):
        raise CommandSeenError("; ".join(map(str, seen)))


def _number(result: dict[str, Any], name: str) -> int:
    """A number of an answer."""
    value = result.get(name)
    if not isinstance(value, int):
        raise ControlError(PROTOCOL, f"{name}: {value!r} is no number")
    return value
