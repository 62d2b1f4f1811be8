# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A vfio-user server that answers what it is told to, one message after the other."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ihsm.bus import vfio_abi
from ihsm.bus.vfio_user_wire import HEADER, REGION_ACCESS, TYPE_REPLY, VERSION, Command
from support.waiting import ended


class WithDescriptors(NamedTuple):
    """An answer that carries file descriptors, which stay the answerer's."""

    data: bytes
    fds: tuple[int, ...]


class Last(NamedTuple):
    """An answer after which the server ends the connection."""

    data: bytes


Answer = Callable[[int, int, bytes], bytes | WithDescriptors | Last]
"""(message id, command, payload) -> bytes to send; empty: no answer."""


def reply(message_id: int, command: int, payload: bytes, flags: int = TYPE_REPLY, error: int = 0) -> bytes:
    return HEADER.pack(message_id, command, HEADER.size + len(payload), flags, error) + payload


def honest(message_id: int, command: int, payload: bytes) -> bytes:
    """A function with one BAR of 4 KiB, 32 vectors and config space, all bytes 0x5A."""
    match command:
        case Command.VERSION:
            return reply(message_id, command, VERSION.pack(0, 1) + b'{"capabilities":{"max_msg_fds":8}}\0')
        case Command.DEVICE_GET_INFO:
            return reply(message_id, command, vfio_abi.DEVICE_INFO.pack(16, 3, 9, 5))
        case Command.DEVICE_GET_REGION_INFO:
            index = vfio_abi.REGION_INFO.unpack_from(payload)[2]
            size = 4096 if index in (0, vfio_abi.Region.CONFIG) else 0
            return reply(message_id, command, vfio_abi.REGION_INFO.pack(32, 3, index, 0, size, 0))
        case Command.DEVICE_GET_IRQ_INFO:
            return reply(message_id, command, vfio_abi.IRQ_INFO.pack(16, 1, 2, 32))
        case Command.REGION_READ:
            _, _, count = REGION_ACCESS.unpack_from(payload)
            return reply(message_id, command, payload[: REGION_ACCESS.size] + b"\x5a" * count)
        case _:
            return reply(message_id, command, payload)


@contextlib.contextmanager
def scripted_server(folder: Path, answer: Answer) -> Iterator[Path]:
    """Serve one client after the other with `answer` until the end of the context."""
    path = folder / "s.sock"
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.fspath(path))
    listener.listen()
    thread = threading.Thread(target=_serve, args=(listener, answer), daemon=True)
    thread.start()
    try:
        yield path
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        ended(thread)


def _serve(listener: socket.socket, answer: Answer) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            while _answer_one(connection, answer):
                pass


def _answer_one(connection: socket.socket, answer: Answer) -> bool:
    head = connection.recv(HEADER.size, socket.MSG_WAITALL)
    if len(head) < HEADER.size:
        return False
    message_id, command, size, flags, _ = HEADER.unpack(head)
    payload = connection.recv(size - HEADER.size, socket.MSG_WAITALL) if size > HEADER.size else b""
    if flags & 0xF:  # a reply to a command of ours
        return True
    told = answer(message_id, command, payload)
    if isinstance(told, WithDescriptors):
        socket.send_fds(connection, [told.data], told.fds)
    else:
        connection.sendall(told.data if isinstance(told, Last) else told)
    return not isinstance(told, Last)
