# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the vfio-user protocol (version 0.x of its public specification), client's side of one connection."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import IntEnum
from struct import Struct
from typing import Any, Final, NamedTuple

from ihsm import forks
from ihsm.arguments import seconds, waiting_time
from ihsm.bus.holder import find_holder
from ihsm.bus.silence import explain
from ihsm.errors import (
    HOW_TO_WAIT,
    ArgumentError,
    ArgumentTypeError,
    BusError,
    BusTimeoutError,
    ConnectionLostError,
    DeviceBusyError,
    DeviceNotFoundError,
    ForkedError,
    ProtocolError,
    RequestRefusedError,
    ResourceError,
)
from ihsm_abi import json_text
from ihsm_abi.sockets import MAX_PATH_BYTES


class Command(IntEnum):
    """Command numbers."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13


HEADER: Final = Struct("<HHIII")
"""Message id, command, message size with this header, flags, errno."""
TYPE_MASK: Final = 0xF
TYPE_COMMAND: Final = 0
TYPE_REPLY: Final = 1
FLAG_NO_REPLY: Final = 1 << 4
FLAG_ERROR: Final = 1 << 5

VERSION: Final = Struct("<HH")
"""major, minor; a NUL-terminated JSON text follows."""
DMA_MAP: Final = Struct("<IIQQQ")
"""argsz, flags, offset in the descriptor, I/O address, size."""
DMA_UNMAP: Final = Struct("<IIQQ")
"""argsz, flags, I/O address, size."""
REGION_ACCESS: Final = Struct("<QII")
"""offset, region, count; data follow."""
REGION_IO_FDS: Final = Struct("<IIII")
"""argsz, flags, index, count; sub-regions follow in the reply."""
SUB_REGION: Final = Struct("<QQIIIIQ")
"""offset, size, fd_index, type, flags, padding, datamatch."""
SUB_REGION_IOEVENTFD: Final = 0

MAJOR: Final = 0
MINOR: Final = 0
MAX_DATA_BYTES: Final = 1 << 20
"""Longest region access we send or accept, the protocol's default."""
MAX_REPLY_BYTES: Final = MAX_DATA_BYTES + 4096
MAX_FDS: Final = 32
"""Descriptors we accept with one reply."""
DEFAULT_TIMEOUT_S: Final = 20.0
"""A reset waits for work in flight, so replies may take a while; longer than any honest answer."""
BUSY_CHECK_S: Final = 0.25
"""How long a server may take to accept us until we ask who has the function: most answer within a millisecond."""
BUSY_RECHECK_S: Final = 2.0


MAX_TIMEOUT_S: Final = 1_000_000
"""As the kernel keeps time limits of sockets, far below its own bound."""


def socket_path(path: str | os.PathLike[str]) -> str:
    """The path of a socket as text.

    Raises:
        ArgumentTypeError, ArgumentError: it is no path.
    """
    try:
        name = os.fspath(path)
    except TypeError:
        name = None
    if not isinstance(name, str):
        raise ArgumentTypeError("VfioUserFunction", "path", f"{type(path).__name__}, must be a path")
    if not name or "\0" in name:
        raise ArgumentError("VfioUserFunction", "path", f"{name!r} names no socket")
    return name


class Reply(NamedTuple):
    """Payload and descriptors of a reply; the descriptors belong to the receiver."""

    payload: bytes
    fds: list[int]


def message(command: Command, payload: bytes, message_id: int, *, posted: bool = False) -> bytes:
    """A command with its header; posted: no reply is wanted."""
    flags = TYPE_COMMAND | (FLAG_NO_REPLY if posted else 0)
    return HEADER.pack(message_id, command, HEADER.size + len(payload), flags, 0) + payload


class Connection:
    """A negotiated connection. One request is outstanding at a time; posted requests (no reply) go in between.

    An answer that breaks the protocol, a time-out and a lost peer close the connection: where the next message starts
    is then unknown.
    """

    def __init__(self, path: str, timeout_s: float = DEFAULT_TIMEOUT_S, wait_s: float = 0.0) -> None:
        """Connect to the socket `path` and negotiate; a function that another client has is waited for.

        Raises:
            DeviceNotFoundError: nobody listens there.
            DeviceBusyError: another client has the function, and keeps it for `wait_s` seconds.
            BusError: the path is too long, or the server does not speak version 0 of the protocol.
        """
        timeout_s = seconds("VfioUserFunction", "timeout_s", timeout_s)
        if not 0 < timeout_s <= MAX_TIMEOUT_S:
            raise ArgumentError("VfioUserFunction", "timeout_s", f"{timeout_s:g}, 0 to {MAX_TIMEOUT_S} possible")
        if len(os.fsencode(path)) > MAX_PATH_BYTES:
            raise DeviceNotFoundError(f"socket path of {len(os.fsencode(path))} bytes exceeds {MAX_PATH_BYTES}: {path}")
        self.path = path
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._message_id = 0
        self._received = bytearray()
        self._fds: list[int] = []
        self._begin = datetime.now(UTC)
        self._wait_s = waiting_time("VfioUserFunction", "wait_s", wait_s)
        self._patient_until = time.monotonic() + self._wait_s
        self._socket: socket.socket | None = None
        self._forked = False
        forks.watch(self)
        self._socket = self._connect()
        self.max_fds = 1
        self.max_data_bytes = MAX_DATA_BYTES
        self._negotiate()

    def request(
        self,
        command: Command,
        payload: bytes,
        *,
        reply_bytes: int = 0,
        fds: Sequence[int] = (),
        what: str = "",
        wait: Callable[[], None] = lambda: None,
    ) -> Reply:
        """Send a command and wait for its reply, whose payload must have at least `reply_bytes` bytes.

        `wait` may wait for the reply's first byte, and raise a BusError.

        Raises:
            RequestRefusedError: the reply carries an error; the connection remains usable.
            ProtocolError, BusTimeoutError, ConnectionLostError: the connection is closed.
            ForkedError: it is the parent's.
        """
        with self._lock:
            self._message_id = (self._message_id + 1) & 0xFFFF
            try:
                self._send(message(command, payload, self._message_id), fds, what or command.name)
                wait()
                error, reply = self._receive_reply(command, reply_bytes)
            except BusError:
                self._shut()
                raise
        if error:
            _close_all(reply.fds)
            raise RequestRefusedError(what or command.name, error)
        if len(reply.payload) < reply_bytes:
            _close_all(reply.fds)
            self.close()
            raise ProtocolError(f"{what or command.name}: reply of {len(reply.payload)} bytes, {reply_bytes} expected")
        return reply

    def post(self, command: Command, payload: bytes) -> None:
        """Send a command that gets no reply; the server handles commands in order.

        Raises:
            BusTimeoutError, ConnectionLostError: the connection is closed.
            ForkedError: it is the parent's.
        """
        with self._lock:
            self._message_id = (self._message_id + 1) & 0xFFFF
            try:
                self._send(message(command, payload, self._message_id, posted=True), (), command.name)
            except BusError:
                self._shut()
                raise

    def close(self) -> None:
        """Close; harmless the second time."""
        with self._lock:
            self._shut()

    def forked(self) -> None:
        """In a child of fork(): close its copies of the descriptors, while the parent's connection goes on."""
        self._lock = threading.Lock()
        self._forked = True
        self._release()

    def fileno(self) -> int:
        """Descriptor of the socket, for a caller that sends posted messages of its own, whole and one at a time."""
        return self._live("fileno").fileno()

    @property
    def closed(self) -> bool:
        """Whether the connection is gone."""
        return self._socket is None

    def _shut(self) -> None:
        """End the connection, for whoever has a copy of the socket, too."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        self._release()

    def _release(self) -> None:
        connection, self._socket = self._socket, None
        if connection is not None:
            connection.close()
        _close_all(self._fds)
        self._fds = []

    def _negotiate(self) -> None:
        capabilities = {"capabilities": {"max_msg_fds": MAX_FDS, "max_data_xfer_size": MAX_DATA_BYTES}}
        text = json_text.dump(capabilities).encode() + b"\0"
        try:
            reply = self.request(
                Command.VERSION,
                VERSION.pack(MAJOR, MINOR) + text,
                reply_bytes=VERSION.size,
                wait=self._refuse_to_queue,
            )
            _close_all(reply.fds)
            major, _ = VERSION.unpack_from(reply.payload)
            if major != MAJOR:
                raise ProtocolError(f"{self.path}: server speaks vfio-user version {major}, we speak {MAJOR}")
            self._take_capabilities(reply.payload[VERSION.size :])
        except BusError:
            self.close()
            raise

    def _refuse_to_queue(self) -> None:
        """Wait for the server's first answer; it accepts a client when the one before has gone.

        Raises:
            DeviceBusyError: another client had the function before we came.
            BusTimeoutError: no answer came within the time limit.
        """
        poller = select.poll()
        poller.register(self._live(), select.POLLIN)
        limit_s = max(self._timeout_s, self._wait_s)
        deadline = time.monotonic() + limit_s
        patience_s = min(BUSY_CHECK_S, self._timeout_s)
        while not poller.poll(1000 * patience_s):
            self._require_free()
            now = time.monotonic()
            if now > deadline:
                raise BusTimeoutError(f"{self.path}: no answer within {limit_s:g} s: {explain(self.path)}")
            end = self._patient_until if now < self._patient_until else deadline
            patience_s = min(BUSY_RECHECK_S, max(end - now, 0.0))

    def _require_free(self) -> None:
        """See that nobody has the function that we wait for; whoever waits long does so for any client."""
        holder = find_holder(self.path)
        if holder is None or time.monotonic() < self._patient_until:
            return
        if self._wait_s or holder.since < self._begin:
            raise DeviceBusyError(f"{self.path} is in use by {holder}; {HOW_TO_WAIT}")

    def _connect(self) -> socket.socket:
        """A connection whose calls give up after the time limit; that may find the queue of those who wait full."""
        limit_s = max(self._timeout_s, self._wait_s)
        deadline = time.monotonic() + limit_s
        while True:
            try:
                return _connect(self.path, self._timeout_s, min(self._timeout_s, BUSY_CHECK_S))
            except BlockingIOError:
                self._require_free()
                if time.monotonic() > deadline:
                    raise BusTimeoutError(
                        f"{self.path}: server did not accept within {limit_s:g} s: {explain(self.path)}"
                    ) from None

    def _take_capabilities(self, text: bytes) -> None:
        try:
            record: Any = json_text.parse(text.rstrip(b"\0") or b"{}")
            offered = record.get("capabilities", {})
            max_fds = offered.get("max_msg_fds", 1)
            max_data = offered.get("max_data_xfer_size", MAX_DATA_BYTES)
        except (ValueError, AttributeError):
            raise ProtocolError(f"{self.path}: version reply carries no JSON object with capabilities") from None
        for name, value in (("max_msg_fds", max_fds), ("max_data_xfer_size", max_data)):
            if type(value) is not int or value < 0:
                raise ProtocolError(f"{self.path}: {name} is {value!r}, a number expected")
        self.max_fds = max(1, min(max_fds, MAX_FDS))
        self.max_data_bytes = min(max_data, MAX_DATA_BYTES)

    def _send(self, data: bytes, fds: Sequence[int], what: str) -> None:
        connection = self._live(what)
        try:
            sent = socket.send_fds(connection, [data], list(fds)) if fds else connection.send(data)
            while sent < len(data):
                sent += connection.send(data[sent:])
        except BlockingIOError:
            raise BusTimeoutError(f"{self.path}: server took no message for {self._timeout_s:g} s") from None
        except OSError as error:
            raise ConnectionLostError(f"{self.path}: {error.strerror}") from None

    def _receive_reply(self, command: Command, reply_bytes: int) -> tuple[int, Reply]:
        """Next reply; commands of the server (only DMA over messages exists) are refused on the way."""
        deadline = time.monotonic() + self._timeout_s
        while True:
            self._fill(HEADER.size, HEADER.size + reply_bytes, deadline)
            message_id, answered, size, flags, error = HEADER.unpack_from(self._received)
            if not HEADER.size <= size <= MAX_REPLY_BYTES:
                raise ProtocolError(f"{self.path}: message size {size} outside {HEADER.size}..{MAX_REPLY_BYTES}")
            self._fill(size, size, deadline)
            payload = bytes(self._received[HEADER.size : size])
            del self._received[:size]
            fds, self._fds = self._fds, []
            if flags & TYPE_MASK == TYPE_REPLY:
                break
            _close_all(fds)
            if flags & TYPE_MASK != TYPE_COMMAND:
                raise ProtocolError(f"{self.path}: message type {flags & TYPE_MASK} is neither command nor reply")
            self._refuse(message_id, answered, flags)
        if message_id != self._message_id or answered != command:
            _close_all(fds)
            raise ProtocolError(
                f"{self.path}: reply to message {message_id} (command {answered}), "
                f"{self._message_id} (command {command}) expected"
            )
        return (error or errno.EINVAL) if flags & FLAG_ERROR else 0, Reply(payload, fds)

    def _refuse(self, message_id: int, command: int, flags: int) -> None:
        if flags & FLAG_NO_REPLY:
            return
        answer = HEADER.pack(message_id, command, HEADER.size, TYPE_REPLY | FLAG_ERROR, errno.EOPNOTSUPP)
        connection = self._live()
        try:
            connection.sendall(answer)
        except OSError as error:
            raise ConnectionLostError(f"{self.path}: {error.strerror}") from None

    def _fill(self, needed: int, wanted: int, deadline: float) -> None:
        """Receive until `needed` bytes are there; ask for `wanted` at once to spare a system call."""
        while len(self._received) < needed:
            connection = self._live()
            try:
                data, fds, flags, _ = socket.recv_fds(
                    connection, max(needed, wanted) - len(self._received), MAX_FDS, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                raise BusTimeoutError(f"{self.path}: no answer within {self._timeout_s:g} s") from None
            except OSError as error:
                raise ConnectionLostError(f"{self.path}: {error.strerror}") from None
            self._fds += fds
            if flags & socket.MSG_CTRUNC or len(self._fds) > MAX_FDS:
                raise ProtocolError(f"{self.path}: more than {MAX_FDS} descriptors with one message")
            if not data:
                raise ConnectionLostError(f"{self.path}: server closed the connection")
            self._received += data
            if len(self._received) < needed and time.monotonic() > deadline:
                raise BusTimeoutError(f"{self.path}: answer incomplete after {self._timeout_s:g} s")

    def _live(self, what: str = "wait for an answer") -> socket.socket:
        if self._socket is None:
            if self._forked:
                raise ForkedError(f"{self.path}: {what}")
            raise ConnectionLostError(f"{self.path}: the connection is closed")
        return self._socket


def _connect(path: str, timeout_s: float, connect_timeout_s: float) -> socket.socket:
    """A connection whose calls give up after `timeout_s`; BlockingIOError if it is not made in its own limit."""
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise ResourceError(f"{path}: a socket: {error.strerror}", error.errno or 0) from None
    try:
        # Kernel time-outs instead of settimeout(): the descriptor stays blocking, no poll() before each call.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(connect_timeout_s))
        connection.connect(path)
        _require_connected(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(timeout_s))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))
    except BlockingIOError:
        connection.close()
        raise
    except OSError as error:
        connection.close()
        what_to_do = ""
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            what_to_do = f": no device is served there; `ihsm serve --socket {path}`, with its --state, starts it"
        raise DeviceNotFoundError(f"{path}: {error.strerror or error}{what_to_do}") from None
    return connection


def _timeval(seconds: float) -> bytes:
    """struct timeval; the kernel takes 0 for no limit."""
    return Struct("@ll").pack(int(seconds), max(int(seconds % 1 * 1_000_000), int(seconds < 1)))


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _require_connected(connection: socket.socket) -> None:
    """Raise BlockingIOError if there is no connection after all.

    A process that is stopped and goes on finds its connect(2) with a time limit interrupted (signal(7)). Python takes
    such a connection for one that is still being made; one of this family has not been begun.
    """
    try:
        connection.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
