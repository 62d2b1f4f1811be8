# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A command's streams between the guest's virtio ports and ours."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

_CHUNK = 1 << 16
_TAIL_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class Streams:
    """Where the command's streams go; `stdin` None is an empty one."""

    stdin: BinaryIO | None
    stdout: BinaryIO
    stderr: BinaryIO


class Tail:
    """The last of what a command has written, for those who ask what it was doing; threads may add to it."""

    def __init__(self) -> None:
        """Empty."""
        self._lock = threading.Lock()
        self._held = b""

    def add(self, data: bytes) -> None:
        """What was written next."""
        with self._lock:
            self._held = (self._held + data)[-_TAIL_BYTES:]

    def lines(self, count: int) -> list[str]:
        """The last lines, at most `count`."""
        with self._lock:
            text = self._held.decode(errors="replace")
        return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]


def carry_out(
    end: socket.socket,
    sink: BinaryIO,
    mark: bytes,
    lost: list[OSError],
    seen: Callable[[bytes], None] = lambda data: None,
) -> None:
    """Write what comes from a port to `sink`, up to the mark that ends it or to the end of the connection.

    `lost` takes the errors of a sink that takes nothing; `seen` is told all that came, whether or not it did.
    """
    held, complete = b"", False
    while not complete:
        data = end.recv(_CHUNK)
        held += data
        passed, complete = held.find(mark), True
        if passed < 0:
            passed, complete = len(held) - (_overlap(held, mark) if data else 0), not data
        seen(held[:passed])
        try:
            sink.write(held[:passed])
            sink.flush()
        except (BrokenPipeError, ValueError):
            pass  # a sink that was closed early (at its other end: a pager, head; or by us) must not stop the guest
        except OSError as error:
            lost.append(error)  # nor must one that is full, but somebody shall know
        held = held[passed:]


def _overlap(data: bytes, mark: bytes) -> int:
    """Length of the longest proper beginning of `mark` that `data` ends with."""
    start = data.rfind(mark[:1], -len(mark) + 1)
    return len(data) - start if start >= 0 and mark.startswith(data[start:]) else 0


def carry_in(end: socket.socket, source: BinaryIO | None, listening: threading.Event) -> None:
    """Send what `source` gives to a port from when the guest is listening, and the end after it."""
    # QEMU drops what a port was sent if the other end closes before the guest has opened it.
    listening.wait()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        while source is not None:
            # The guest's end becomes readable when QEMU goes.
            ready, _, _ = select.select([source.fileno(), end.fileno()], [], [])
            if end.fileno() in ready:
                return
            try:
                data = os.read(source.fileno(), _CHUNK)
            except OSError:
                data = b""  # a folder, a terminal that is gone: as an empty one
            if not data:
                break
            end.sendall(data)
        # Closing the socket would make QEMU drop what the guest has not read yet; this is an end after the data.
        end.shutdown(socket.SHUT_WR)
