# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A server that takes connections and does not answer: what its clients are told, by commands and by exceptions."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction, holder
from ihsm.bus.silence import explain
from ihsm.control import ControlClient
from ihsm.errors import PROTOCOL, BusTimeoutError, ControlError
from ihsm_abi.control import SUFFIX, ControlAnswer, ControlRequest
from support.commands import refused
from support.process import ServeProcess, serve, stands_still
from support.waiting import HANG_S, ended, until

SILENT = "the server accepts connections but does not answer"
SHORT_S = 0.05
"""Where no answer can come."""
OWN = rf"its process {os.getpid()} \(.+\) may hang"


@pytest.fixture
def stopped(socket_folder: Path) -> Iterator[ServeProcess]:
    """`ihsm serve`, which the system has stopped."""
    with serve("--socket", os.fspath(socket_folder / "a.sock")) as server:
        server.process.send_signal(signal.SIGSTOP)
        until(lambda: stands_still(server.pid), "the stop")
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What asks a server does not wait long."""
    monkeypatch.setitem(VfioUserFunction.__init__.__kwdefaults__, "timeout_s", SHORT_S)
    monkeypatch.setattr(ControlClient.__init__, "__defaults__", (SHORT_S,))
    monkeypatch.setattr(holder, "TIMEOUT_S", SHORT_S)


@contextlib.contextmanager
def listening(path: Path, backlog: int = 16) -> Iterator[socket.socket]:
    """A server that nobody has told to accept."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen(backlog)
        yield listener


@contextlib.contextmanager
def control(path: Path, answer: ControlAnswer) -> Iterator[None]:
    """The control socket beside a socket, which answers each request in the same way."""
    with listening(Path(os.fspath(path) + SUFFIX)) as listener:

        def serve_requests() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # shut down
                    return
                with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
                    ControlRequest.decode(lines.readline())
                    connection.sendall(answer.encode())

        thread = threading.Thread(target=serve_requests, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
    ended(thread)


def is_stopped(server: ServeProcess) -> str:
    """A pattern for the end of a line."""
    return rf"{SILENT}; its process {server.pid} \(.+\) is stopped"


def test_that_a_server_is_stopped_is_told(stopped: ServeProcess, impatient: None) -> None:
    """The second who asks finds the room in the socket's queue taken by the first, who has given up."""
    path = stopped.paths[0]
    first, second = (refused(4, "info", "--device", f"vfio-user:{path}") for _ in range(2))
    assert re.fullmatch(rf"Error: {path}: no answer within {SHORT_S} s: {is_stopped(stopped)}", first)
    assert re.fullmatch(rf"Error: {path}: server did not accept within {SHORT_S} s: {is_stopped(stopped)}", second)


@pytest.mark.parametrize("command", [("status",), ("fault", "list")])
def test_a_control_socket_of_a_stopped_server(stopped: ServeProcess, impatient: None, command: tuple[str, ...]) -> None:
    path = stopped.paths[0]
    line = refused(4, *command, "--device", f"vfio-user:{path}")
    assert re.fullmatch(rf"Error: {path}{SUFFIX}: no answer within {SHORT_S} s: {is_stopped(stopped)}", line)


def test_a_server_that_goes_on_answers(stopped: ServeProcess, impatient: None) -> None:
    """Who gave up meanwhile does not keep others away."""
    refused(4, "info", "--device", f"vfio-user:{stopped.paths[0]}")
    stopped.process.send_signal(signal.SIGCONT)
    with VfioUserFunction(stopped.paths[0], timeout_s=HANG_S) as function:
        assert function.read_bar(0, 0, 8)


def test_that_nobody_has_the_device_is_told(socket_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers at the control socket lives; what should take clients hangs."""
    monkeypatch.setattr(holder, "TIMEOUT_S", HANG_S)
    path = socket_folder / "a.sock"
    why = rf"no answer within {SHORT_S} s: no other client has the device; {SILENT}; {OWN}$"
    with listening(path), control(path, ControlAnswer({"client": None})), pytest.raises(BusTimeoutError, match=why):
        VfioUserFunction(path, timeout_s=SHORT_S)


def test_a_client_that_came_meanwhile_is_named(socket_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was there before us is refused at once, as a device that is in use."""
    monkeypatch.setattr(holder, "TIMEOUT_S", HANG_S)
    path = socket_folder / "a.sock"
    client = {"pid": 77, "name": "other", "since": "9999-01-01T00:00:00+00:00"}
    why = rf"no answer within {SHORT_S} s: process 77 \(other\) since .+ has the device$"
    with listening(path), control(path, ControlAnswer({"client": client})), pytest.raises(BusTimeoutError, match=why):
        VfioUserFunction(path, timeout_s=SHORT_S)


@pytest.mark.parametrize(
    "answer",
    [ControlAnswer({}), ControlAnswer({"client": 3}), ControlAnswer(error_code="failed")],
    ids=["nothing", "no client", "an error"],
)
def test_what_is_not_known_is_not_said(
    socket_folder: Path, monkeypatch: pytest.MonkeyPatch, answer: ControlAnswer
) -> None:
    monkeypatch.setattr(holder, "TIMEOUT_S", HANG_S)
    path = socket_folder / "a.sock"
    both = "another client may have the device, or the server is stopped or hangs"
    assert explain(path) == both
    with control(path, answer):
        assert explain(path) == both


def test_an_answer_that_stops_has_begun(socket_folder: Path) -> None:
    """It was accepted: no other client has anything to do with it."""
    path = socket_folder / "a.sock"
    with listening(path) as listener:

        def begin() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"\1")
                while connection.recv(4096):
                    pass

        thread = threading.Thread(target=begin, daemon=True)
        thread.start()
        with pytest.raises(BusTimeoutError, match=rf"no answer within {SHORT_S} s$"):
            VfioUserFunction(path, timeout_s=SHORT_S)
        ended(thread)


def test_a_control_socket_whose_queue_is_full(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    why = "the server accepts no more connections; it may be stopped or hang"
    with listening(Path(os.fspath(path) + SUFFIX), 0), socket.socket(socket.AF_UNIX) as first:
        first.connect(os.fspath(path) + SUFFIX)  # room for none is room for one
        assert explain(path) == why
        with pytest.raises(ControlError, match=f"ctl: {why}$") as caught:
            ControlClient(path)
        assert caught.value.code == PROTOCOL


def test_a_process_that_cannot_be_seen(socket_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of another namespace, or hidden by the way that /proc is mounted."""
    monkeypatch.setattr("ihsm.bus.silence.PROC", tmp_path)
    monkeypatch.setattr(holder, "TIMEOUT_S", SHORT_S)
    path = socket_folder / "a.sock"
    with listening(Path(os.fspath(path) + SUFFIX)):
        assert explain(path) == f"{SILENT}; it may be stopped or hang"
