# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A vfio-user client that says whatever it is told to, however wrong."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

from ihsm.bus.vfio_user_wire import FLAG_ERROR, HEADER, TYPE_COMMAND, VERSION, Command
from support.waiting import HANG_S

GREETING = VERSION.pack(0, 0) + b'{"capabilities":{"max_msg_fds":16}}\0'


class Answer(NamedTuple):
    """A reply: its command, the errno it carries (0: done) and its payload."""

    command: int
    error: int
    payload: bytes


class RawClient:
    """One connection; messages are numbered from 1."""

    def __init__(self, path: str | os.PathLike[str], *, greet: bool = True) -> None:
        """Connect, and exchange greetings."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(os.fspath(path))  # waits while another client is on its way in
        self.socket.settimeout(HANG_S)
        self._number = 0
        if greet:
            assert self.request(Command.VERSION, GREETING).error == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.socket.close()

    def message(
        self, command: int, payload: bytes = b"", *, size: int | None = None, flags: int = TYPE_COMMAND
    ) -> bytes:
        """The next message; `size` is what the header claims, by default the truth."""
        self._number = self._number + 1 & 0xFFFF
        whole = HEADER.size + len(payload)
        return HEADER.pack(self._number, command, whole if size is None else size, flags, 0) + payload

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Bytes, with descriptors if there are any."""
        sent = socket.send_fds(self.socket, [data], list(fds)) if fds else 0
        self.socket.sendall(data[sent:])

    def receive(self) -> Answer:
        """The next reply, which must be to the last message; descriptors that come with it are dropped.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        number, command, size, flags, error = HEADER.unpack(self._exactly(HEADER.size))
        payload = self._exactly(size - HEADER.size)
        assert number == self._number, "a reply to another message: the stream is out of step"
        assert bool(flags & FLAG_ERROR) == bool(error)
        return Answer(command, error, payload)

    def request(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> Answer:
        """Send a whole message and wait for its reply."""
        self.send(self.message(command, payload), fds)
        answer = self.receive()
        assert answer.command == command
        return answer

    def write(self, region: int, offset: int, data: bytes) -> Answer:
        """REGION_WRITE."""
        return self.request(Command.REGION_WRITE, struct.pack("<QII", offset, region, len(data)) + data)

    def read(self, region: int, offset: int, size: int) -> bytes:
        """REGION_READ; fails the test if it is refused."""
        answer = self.request(Command.REGION_READ, struct.pack("<QII", offset, region, size))
        assert answer.error == 0
        return answer.payload[16:]

    def in_step(self) -> bool:
        """Whether an ordinary request gets its answer."""
        return self.request(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0)).error == 0

    def is_closed(self) -> bool:
        """Whether the server has closed the connection or does so now; replies that are still there are dropped."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except ConnectionResetError:
            pass
        return True

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece, fds, _, _ = socket.recv_fds(self.socket, size - len(data), 16)
            for fd in fds:
                os.close(fd)
            if not piece:
                raise ConnectionResetError("closed by the server")
            data += piece
        return data
