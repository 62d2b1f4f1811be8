# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A process beside the device that reads the mappings of clients (/proc/PID/maps), which a confined device may not.

It is forked before the device has keys, threads or sockets, is told process ids, and answers with what the kernel shows
of them. It ends with the device.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

MAX_MAPS_BYTES: Final = 16 << 20
"""Of a client's mappings, as the kernel lists them, so much is read."""
_REQUEST: Final = struct.Struct("=i")
_LENGTH: Final = struct.Struct("=I")
_NOTHING: Final = 0
"""Length of an answer for a process that cannot be looked at."""

ReadMaps = Callable[[int], bytes]
"""What /proc/PID/maps of a process has; OSError if it cannot be read."""


def read_maps(pid: int) -> bytes:
    """What /proc/PID/maps has, read by this process; raises OSError."""
    with Path(f"/proc/{pid}/maps").open("rb") as maps:
        return maps.read(MAX_MAPS_BYTES)


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
                _serve(connections)
            finally:
                os._exit(0)
        for _, theirs in pairs:
            theirs.close()

    def reader(self, function: int) -> ReadMaps:
        """What reads mappings for a function; one thread at a time may call it."""
        connection = self._connections[function]

        def read(pid: int) -> bytes:
            connection.sendall(_REQUEST.pack(pid))
            (length,) = _LENGTH.unpack(_received(connection, _LENGTH.size))
            if length == _NOTHING:
                raise PermissionError(f"process {pid} cannot be looked at")
            return _received(connection, length)

        return read

    def close(self) -> None:
        """End it."""
        for connection in self._connections:
            connection.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


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


def _serve(connections: Sequence[socket.socket]) -> None:
    """The process's life: the end of the device ends it, not what a terminal sends to both."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    poller = select.poll()
    by_fd = {connection.fileno(): connection for connection in connections}
    for fd in by_fd:
        poller.register(fd, select.POLLIN)
    while by_fd:
        for fd, _ in poller.poll():
            request = by_fd[fd].recv(_REQUEST.size, socket.MSG_WAITALL)
            if len(request) < _REQUEST.size:
                poller.unregister(fd)
                del by_fd[fd]
                continue
            # the kernel may need a lock that the process holds: nobody else waits for that
            arguments = (by_fd[fd], *_REQUEST.unpack(request))
            try:
                threading.Thread(target=_answer, args=arguments, daemon=True).start()
            except RuntimeError:  # no more threads for now
                _send(by_fd[fd], b"")


def _answer(connection: socket.socket, pid: int) -> None:
    try:
        found = read_maps(pid)
    except OSError:
        found = b""
    _send(connection, found)


def _send(connection: socket.socket, found: bytes) -> None:
    with contextlib.suppress(OSError):  # the device has gone
        connection.sendall(_LENGTH.pack(len(found)) + found)
