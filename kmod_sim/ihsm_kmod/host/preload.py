# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The way `preload`: a library in dynamic programs sends their calls over a socket, and takes our answers.

The library is built from kmod_sim/native, where protocol.h has the packets below. Each thread of a program has a
connection, and each connection a thread here.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final

from ihsm.closing import Closing
from ihsm_kmod.host.files import HostFiles, error_number
from ihsm_kmod.host.open_files import Handed
from ihsm_kmod.host.processes import Caller
from ihsm_kmod.host.syscalls import pack_stat

LIBRARY: Final = Path(__file__).with_name("libihsm_preload.so")
SERVER_VARIABLE: Final = "IHSM_KMOD_PRELOAD"
"""Environment variable: where we listen."""
SHADOW_VARIABLE: Final = "IHSM_KMOD_SHADOW"
"""Environment variable: the shadow of /dev and /sys."""


class Operation(IntEnum):
    """What a program asks."""

    HELLO = 0
    OPEN = 1
    IOCTL = 2
    STAT = 3
    FSTAT = 4
    ACCESS = 5
    READLINK = 6


REQUEST: Final = struct.Struct("=IIQQQ")
"""Operation, flags, inode, number, argument; a path follows."""
ANSWER: Final = struct.Struct("=IIq")
"""Outcome, nothing, result; a structure or a text follows."""
NOT_OURS: Final = ANSWER.pack(0, 0, 0)
IS_DONE: Final = 1
HAS_FAILED: Final = 2
LONGEST: Final = REQUEST.size + 4096
"""Bytes of a request with too long a path."""
CREDENTIALS: Final = struct.Struct("=iII")
"""struct ucred (unix(7)): process, user, group."""
NO_DESCRIPTORS_S: Final = 0.1
"""Until those that wait to be connected are looked at again."""

_log = logging.getLogger(__name__)


class PreloadServer(Closing):
    """Answers programs that were started with `preload_environment`."""

    def __init__(self, files: HostFiles, path: Path) -> None:
        """Answer from `files`, on a socket at `path`, where nothing is and only we can reach.

        Raises:
            OSError: there can be no socket.
        """
        self.path = path
        self._files = files
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._listener.bind(os.fspath(path))
            self._listener.listen(socket.SOMAXCONN)
        except OSError:
            self._listener.close()
            raise
        self._accepting = threading.Thread(target=self._accept, name="preload", daemon=True)
        self._accepting.start()

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    def close(self) -> None:
        """Answer nobody any more; a call that waits for the device goes on, and its answer is lost."""
        if self._accepting.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._accepting.join()
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    return
                _log.error("a program's thread waits: %s", error)
                time.sleep(NO_DESCRIPTORS_S)
                continue
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="preload", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one thread until it ends, or sends what the library would not."""
        try:
            caller = _caller(connection)
            while packet := connection.recv(LONGEST):
                self._answer(connection, caller, packet)
        except (_MalformedError, OSError) as error:
            _log.debug("the connection of a program's thread ends: %s", error)
        finally:
            with self._lock:
                self._connections.remove(connection)
                connection.close()

    def _answer(self, connection: socket.socket, caller: Caller, packet: bytes) -> None:
        """Answer one request, whatever happens: its program waits.

        Raises:
            OSError: nobody takes the answer.
        """
        try:
            answer = self._do(caller, packet)
        except _MalformedError:
            raise
        except Exception as error:
            answer = _failure(error_number(error, f"a call of thread {caller.tid}"))
        if isinstance(answer, Handed):
            with answer:
                socket.send_fds(connection, [ANSWER.pack(IS_DONE, 0, 0)], [answer.fd])
        else:
            connection.send(answer)

    def _do(self, caller: Caller, packet: bytes) -> bytes | Handed:
        """Do what a request asks for; the answer to it."""
        operation, flags, inode, number, argument = _decode(packet)
        if operation == Operation.IOCTL:  # the call that should cost little
            return _done(self._files.ioctl(caller, inode, number, argument))
        path = _path(packet)
        match operation:
            case Operation.OPEN:
                return self._files.open(caller, path, flags) or NOT_OURS
            case Operation.STAT:
                return _status(self._files.stat(path, follow=bool(flags)))
            case Operation.FSTAT:
                return _status(self._files.stat(self._files.path_of(path), follow=False))
            case Operation.ACCESS:
                return _done(None if self._files.access(path, flags) is None else 0)
            case Operation.READLINK:
                target = self._files.readlink(path)
                text = b"" if target is None else os.fsencode(target)
                return _done(None if target is None else len(text)) + text
        raise _MalformedError(f"operation {operation}")


class _MalformedError(Exception):
    """A packet that the library does not send."""


def _caller(connection: socket.socket) -> Caller:
    """Who is at the other end: the host's kernel knows the process, and the thread tells its own id.

    Raises:
        _MalformedError: another user, or no thread's id.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    process, user, _ = CREDENTIALS.unpack(credentials)
    if user != os.geteuid():
        raise _MalformedError(f"user {user}")
    operation, _, _, thread, _ = _decode(connection.recv(LONGEST))
    if operation != Operation.HELLO:
        raise _MalformedError(f"operation {operation} before any other")
    return Caller(process, thread)


def _decode(packet: bytes) -> tuple[int, int, int, int, int]:
    """Fields of a request."""
    if len(packet) < REQUEST.size:
        raise _MalformedError(f"{len(packet)} bytes")
    fields: tuple[int, int, int, int, int] = REQUEST.unpack_from(packet)
    return fields


def _path(packet: bytes) -> str:
    """Path in a request."""
    path = packet[REQUEST.size :]
    if len(packet) >= LONGEST or b"\0" in path:
        raise _MalformedError(f"a path of {len(path)} bytes")
    return os.fsdecode(path)


def _done(result: int | None) -> bytes:
    return NOT_OURS if result is None else ANSWER.pack(IS_DONE, 0, result)


def _failure(code: int) -> bytes:
    return ANSWER.pack(HAS_FAILED, 0, code)


def _status(found: os.stat_result | None) -> bytes:
    return NOT_OURS if found is None else ANSWER.pack(IS_DONE, 0, 0) + pack_stat(found)


def preload_environment(server_path: Path, shadow: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables of a program that the preload library is to be in.

    Args:
        server_path: where a `PreloadServer` listens; it is in a folder of ours.
        shadow: as of its `HostFiles`.
        environ: the program's environment without them. Libraries that it loads already stay in front.

    Raises:
        OSError: no link to the library can be made, which one in a folder with such a name needs.
    """
    library = LIBRARY
    if set(os.fspath(library)) & set(" :"):  # which separate the names (ld.so(8))
        library = server_path.with_name(LIBRARY.name)
        library.symlink_to(LIBRARY)
    loaded = [environ["LD_PRELOAD"]] if environ.get("LD_PRELOAD") else []
    return {
        "LD_PRELOAD": ":".join([*loaded, os.fspath(library)]),
        SERVER_VARIABLE: os.fspath(server_path),
        SHADOW_VARIABLE: os.fspath(shadow),
    }
