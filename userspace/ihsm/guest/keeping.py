# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A bench that outlives the command that made it: a process of its own, which takes one request after the other.

It listens on a Unix socket in the folder of this user's devices. A request is a line of JSON, with the descriptors of
the asker's standard output and error beside it, so that what a command writes goes there without passing anybody:

    {"run": {"shell": TEXT or null, "folder": PATH, "environment": {NAME: VALUE}}}    null: the command it was kept with
    {"end": true}

Answers are lines of JSON: {"progress": TEXT} and {"finding": TEXT} as they come, then {"status": NUMBER} or
{"error": TEXT, "exit_code": NUMBER}. An asker that hangs up in the middle of a run ends the guest; the
next gets another.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ihsm.errors import IhsmError
from ihsm.guest.bench import Bench
from ihsm.guest.errors import GuestError, GuestTimeoutError, system_errors
from ihsm.guest.initramfs import GuestCommand
from ihsm.guest.session import Session, current_folder, guest_environment
from ihsm.guest.streams import Streams
from ihsm_abi.sockets import accepts, default_folder

SOCKET_NAME = "guest.sock"
IDLE_LIMIT_S = 4 * 3600.0
"""A kept guest that nobody asks for anything so long ends by itself."""
_REQUEST_BYTES = 1 << 20


class NoKeptGuestError(GuestError):
    """There is no kept guest to ask."""


class KeptTimeoutError(GuestError):
    """A kept guest's command took longer than its time limit."""

    exit_code = GuestTimeoutError.exit_code


@dataclass(frozen=True, slots=True)
class Asker:
    """Who is told what happens: `progress` lines of what is going on, `finding` each complaint of the kernel."""

    progress: Callable[[str], None]
    finding: Callable[[str], None]


def socket_path() -> Path:
    """Where this user's kept guest listens."""
    return default_folder() / SOCKET_NAME


def keep(session: Session) -> None:
    """Start the process that keeps a guest for `session`; the guest boots with the first request.

    Call it before anything else is started: it is a fork of this process.

    Raises:
        GuestError: one is kept already.
        OSError: there can be no socket or no process.
    """
    path = socket_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if accepts(path):
        raise GuestError("a guest is kept already: --again runs in it, --end ends it")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        before = os.umask(0o177)
        try:
            listener.bind(os.fspath(path))
        finally:
            os.umask(before)
        listener.listen()
        if os.fork() == 0:
            _become(session, listener, path)


def _become(session: Session, listener: socket.socket, path: Path) -> None:
    """In the child: serve until the end, and never return."""
    status = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        _Keeper(session, listener).serve()
        status = 0
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        os._exit(status)


class _Keeper:
    """The process that has the bench."""

    def __init__(self, session: Session, listener: socket.socket) -> None:
        self._listener = listener
        self._asker: _Line | None = None
        self._bench = Bench(
            replace(
                session,
                progress=lambda text: self._say({"progress": text}),
                report=lambda finding: self._say({"finding": str(finding)}),
            )
        )

    def _say(self, answer: dict[str, Any]) -> None:
        if self._asker:
            self._asker.send(answer)

    def serve(self) -> None:
        self._listener.settimeout(IDLE_LIMIT_S)
        with self._bench:
            while True:
                try:
                    connection, _ = self._listener.accept()
                except TimeoutError:
                    return
                connection.settimeout(None)
                with connection, contextlib.ExitStack() as stack:
                    self._asker = _Line(connection)
                    if not self._answer(self._asker, stack):
                        return

    def _answer(self, asker: _Line, stack: contextlib.ExitStack) -> bool:
        """Serve one request; False if it was the last."""
        request, descriptors = asker.receive()
        files = [stack.enter_context(os.fdopen(descriptor, "wb")) for descriptor in descriptors]
        if request is None:
            return True  # somebody who only looked whether we listen
        if request.get("end"):
            self._bench.close()
            asker.send({"status": 0})
            return False
        if "run" not in request or len(files) != 2:
            asker.send({"error": "no request that a kept guest knows", "exit_code": GuestError.exit_code})
            return True
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(asker, done), daemon=True)
        watcher.start()
        answer: dict[str, Any]
        try:
            with system_errors():
                answer = {"status": self._bench.run(Streams(None, files[0], files[1]), self._command(request["run"]))}
        except IhsmError as error:
            answer = {"error": str(error), "exit_code": error.exit_code}
        done.set()
        asker.send(answer)
        watcher.join()
        return True

    def _command(self, run: dict[str, Any]) -> GuestCommand:
        shell = self._bench.session.shell if run["shell"] is None else str(run["shell"])
        return GuestCommand(shell, Path(run["folder"]), {str(k): str(v) for k, v in run["environment"].items()})

    def _watch(self, asker: _Line, done: threading.Event) -> None:
        """Wait for the asker to hang up: before its answer that ends the guest."""
        asker.wait_for_end()
        if not done.is_set():
            self._bench.interrupt()


class _Line:
    """One connection, either end of it: JSON by lines, and descriptors with the first."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._held = b""

    def send(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Send a line; nobody minds that the other end is gone."""
        data = json.dumps(message).encode() + b"\n"
        with self._lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if descriptors:
                sent = socket.send_fds(self._connection, [data], list(descriptors))
                data = data[sent:]
            self._connection.sendall(data)

    def receive(self) -> tuple[dict[str, Any] | None, list[int]]:
        """The next line, and what descriptors came with it; None at the end, or for what is no JSON object."""
        descriptors: list[int] = []
        while b"\n" not in self._held and len(self._held) < _REQUEST_BYTES:
            try:
                data, more, _, _ = socket.recv_fds(self._connection, 1 << 16, 2)
            except ConnectionResetError:
                data, more = b"", []
            descriptors += more
            if not data:
                return None, descriptors
            self._held += data
        line, _, self._held = self._held.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            return None, descriptors
        return (message if isinstance(message, dict) else None), descriptors

    def wait_for_end(self) -> None:
        """Return when the other end is gone."""
        with contextlib.suppress(OSError):
            while self._connection.recv(1 << 12):
                pass


def again(shell: str | None, asker: Asker, streams: tuple[int, int]) -> int:
    """Have the kept guest rebuild, reload and run; the command's exit status.

    Args:
        shell: the command, None for the one that the guest was kept with.
        asker: who is told.
        streams: descriptors of standard output and error.

    Raises:
        NoKeptGuestError: there is none.
        GuestError: what the run raised there, or the kept guest is gone without an answer.
    """
    run = {"shell": shell, "folder": os.fspath(current_folder()), "environment": guest_environment()}
    return _ask({"run": run}, asker, streams)


def end() -> None:
    """End the kept guest and its device; raises NoKeptGuestError if there is none."""
    _ask({"end": True}, Asker(lambda text: None, lambda text: None), ())


def _ask(request: dict[str, Any], asker: Asker, descriptors: tuple[int, ...]) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(os.fspath(socket_path()))
        except (ConnectionRefusedError, FileNotFoundError):
            raise NoKeptGuestError("no guest is kept: start one with --keep") from None
        line = _Line(connection)
        line.send(request, descriptors)
        while True:
            answer, _ = line.receive()
            if answer is None:
                raise GuestError("the process that kept the guest is gone")
            if "progress" in answer:
                asker.progress(str(answer["progress"]))
            elif "finding" in answer:
                asker.finding(str(answer["finding"]))
            elif "error" in answer:
                timeout = answer.get("exit_code") == KeptTimeoutError.exit_code
                raise (KeptTimeoutError if timeout else GuestError)(str(answer["error"]))
            else:
                return int(answer["status"])
