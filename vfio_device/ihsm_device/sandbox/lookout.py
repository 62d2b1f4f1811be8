# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A process beside the device that reads the mappings of clients (/proc/PID/maps), which a confined device may not.

It is forked before the device has keys, threads or sockets, is handed connections of clients, and answers with what the
kernel shows of the process at the other end: the kernel says which that is, not the device. It gives up what it does
not need, and ends with the device.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ihsm_device.client_process import peer
from ihsm_device.sandbox import privileges, system_calls
from ihsm_device.sandbox.privileges import CAP_SYS_PTRACE, LOOKOUT, User

_log = logging.getLogger(__name__)

MAX_MAPS_BYTES: Final = 16 << 20
"""Of a client's mappings, as the kernel lists them, so much is read."""
END_TIMEOUT_MS: Final = 1000
"""How long its end is waited for."""
_PIECE_BYTES: Final = 1 << 16
_LOOK: Final = b"\1"
"""What a connection is sent with."""
_LENGTH: Final = struct.Struct("=I")
"""Before an answer; 0: that process cannot be looked at."""

ReadMaps = Callable[[socket.socket], bytes]
"""What /proc/PID/maps has of the process at the other end of a connection; OSError if it cannot be read."""


def read_maps(client: socket.socket) -> bytes:
    """What /proc/PID/maps has of a client, read by this process; raises OSError."""
    return _maps(_pid(client))


def _pid(client: socket.socket) -> int:
    pid, _ = peer(client)
    if pid == 0:
        raise PermissionError("a process of another namespace")
    return pid


def _maps(pid: int) -> bytes:
    maps = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = bytearray()
        while len(found) < MAX_MAPS_BYTES and (piece := os.read(maps, _PIECE_BYTES)):
            found += piece
        return bytes(found)
    finally:
        os.close(maps)


class Lookout:
    """The device's ends of connections to the process, one for each function."""

    def __init__(self, functions: int) -> None:
        """Fork it, while this process has no other thread; raises OSError."""
        pairs = [socket.socketpair() for _ in range(functions)]
        self._connections = [ours for ours, _ in pairs]
        self._pid = os.fork()
        if self._pid == 0:
            try:
                connections = [theirs for _, theirs in pairs]
                _close_all_but(connections)
                _send(connections[0], json.dumps(_confined()).encode())
                _serve(connections)
            finally:
                os._exit(0)
        for _, theirs in pairs:
            theirs.close()
        self._given_up: dict[str, Any] = json.loads(_answer_of(self._connections[0]))
        self.weaker: list[str] = self._given_up.pop("weaker")
        """A text for each thing that it could not give up, and for its end before the device's."""
        self._ended = False

    def reader(self, function: int) -> ReadMaps:
        """What reads mappings for a function; one thread at a time may call it."""
        connection = self._connections[function]

        def read(client: socket.socket) -> bytes:
            try:
                socket.send_fds(connection, [_LOOK], [client.fileno()])
                found = _answer_of(connection)
            except ConnectionError:
                self._has_ended()
                raise
            if not found:
                raise PermissionError("the client cannot be looked at")
            return found

        return read

    def record(self) -> Mapping[str, Any] | None:
        """What it still has, for the control socket; None once it has ended."""
        poller = select.poll()
        poller.register(self._connections[0], select.POLLRDHUP)
        if poller.poll(0):
            self._has_ended()
        return None if self._ended else {"pid": self._pid, **self._given_up}

    def _has_ended(self) -> None:
        if not self._ended:
            self._ended = True
            self.weaker.append("memory: nobody sees whether clients share theirs, the process that looks has ended")
            _log.warning("sandbox: %s", self.weaker[-1])

    def close(self) -> None:
        """Have it end; one that is stopped, by whoever may do that, is not waited for."""
        for connection in self._connections:
            with contextlib.suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_WR)
        poller = select.poll()
        poller.register(self._connections[0], 0)
        if poller.poll(END_TIMEOUT_MS):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._pid, 0)
        for connection in self._connections:
            connection.close()


def _answer_of(connection: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_received(connection, _LENGTH.size))
    return _received(connection, length)


def _received(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise ConnectionResetError("the process that looks at clients has ended")
        data += piece
    return bytes(data)


def _close_all_but(connections: Sequence[socket.socket]) -> None:
    """Nobody who waits for the end of what the device has open waits for this process."""
    kept = {connection.fileno() for connection in connections}
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in kept:
            with contextlib.suppress(OSError):  # the one that listed them
                os.close(fd)


def _confined() -> Mapping[str, Any]:
    """This process has given up what it can; what it still has, and why it is not less.

    Who may read the mappings of all users' processes need not be root. Landlock is not for this process: it forbids to
    look at processes outside of it.
    """
    weaker = []
    try:
        if os.geteuid() != 0:
            privileges.keep_capabilities()
        else:
            with contextlib.suppress(OSError):  # the device, which cannot either, says so
                privileges.empty_bounding_set()
            if privileges.capabilities() & CAP_SYS_PTRACE:
                privileges.become_but_keep(User(LOOKOUT, LOOKOUT), CAP_SYS_PTRACE)
            else:  # without all that root's clients have it could look at none of them
                weaker.append(
                    "memory: the process that looks at clients remains root with all it may, for want of CAP_SYS_PTRACE"
                )
    except OSError as error:
        weaker.append(f"memory: the process that looks at clients remains what it is ({error.strerror})")
    filtered = True
    try:
        system_calls.restrict_lookout()
    except OSError as error:
        filtered = False
        weaker.append(f"memory: the process that looks at clients may make all system calls ({error.strerror})")
    return {
        "user": os.getuid(),
        "capabilities": f"{privileges.capabilities():#x}",
        "system_calls": system_calls.shown(filtered),
        "weaker": weaker,
    }


def _serve(connections: Sequence[socket.socket]) -> None:
    """The process's life: the end of the device ends it, not what a terminal sends to both."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    poller = select.poll()
    by_fd = {connection.fileno(): connection for connection in connections}
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    while by_fd:
        for fd, _ in poller.poll():
            said, clients, _, _ = socket.recv_fds(by_fd[fd], len(_LOOK), 1)
            if not said:
                poller.unregister(fd)
                del by_fd[fd]
                continue
            try:
                pid = _handed_over(clients)
                # the kernel may need a lock that the process holds: nobody else waits for that
                threading.Thread(target=_look, args=(by_fd[fd], pid), daemon=True).start()
            except (OSError, RuntimeError):  # no connection, or no more threads for now
                _send(by_fd[fd], b"")


def _handed_over(clients: Sequence[int]) -> int:
    """The process at the other end of what was handed over, which is closed: clients wait for its end."""
    if not clients:
        raise OSError("nothing was handed over")
    with socket.socket(fileno=clients[0]) as client:
        return _pid(client)


def _look(connection: socket.socket, pid: int) -> None:
    try:
        found = _maps(pid)
    except OSError:
        found = b""
    _send(connection, found)


def _send(connection: socket.socket, found: bytes) -> None:
    with contextlib.suppress(OSError):  # the device has gone
        connection.sendall(_LENGTH.pack(len(found)) + found)
