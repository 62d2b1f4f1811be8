# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Who has a function: told by its server, and a reason not to wait for it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction, holder
from ihsm.bus.holder import Holder, find_holder, find_user
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import BusTimeoutError, DeviceBusyError
from ihsm_abi.control import ControlAnswer
from ihsm_device.client_process import ClientProcess
from support.process import blocks_on, stands_still
from support.waiting import HANG_S, until

USER = """
import sys
from ihsm.bus import VfioUserFunction
with VfioUserFunction(sys.argv[1]):
    print("attached", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def device() -> Iterator[EmbeddedDevice]:
    with EmbeddedDevice() as made:
        yield made


def test_a_second_client_is_told_who_has_the_function(device: EmbeddedDevice) -> None:
    """At once: the time limit here is one that would fail the test."""
    before = datetime.now(UTC)
    with subprocess.Popen(
        [sys.executable, "-c", USER, os.fspath(device.socket_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as user:
        assert user.stdout is not None
        assert user.stdout.readline() == "attached\n"
        found = find_holder(device.socket_path)
        assert found is not None
        assert found.pid == user.pid
        assert before <= found.since <= datetime.now(UTC)
        for _ in range(4):  # those who gave up fill the queue of the socket
            with pytest.raises(DeviceBusyError, match=rf"in use by process {user.pid} \(.+\) since 20"):
                VfioUserFunction(device.socket_path, timeout_s=10 * HANG_S)
        user.communicate("\n")
    with VfioUserFunction(device.socket_path, timeout_s=HANG_S) as function:
        assert function.read_bar(0, 0, 8)
    until(lambda: find_holder(device.socket_path) is None, "the end of the last client")


def test_clients_one_after_the_other_never_meet(device: EmbeddedDevice) -> None:
    """One that has hung up has the function no more, though its end may still be under way."""
    for _ in range(30):
        VfioUserFunction(device.socket_path, timeout_s=HANG_S).close()


def test_whoever_waits_for_a_client_that_leaves_gets_the_function(
    device: EmbeddedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other left before we asked who has it."""
    first = VfioUserFunction(device.socket_path)
    monkeypatch.setattr("ihsm.bus.vfio_user_wire.find_holder", lambda path: first.close())
    with VfioUserFunction(device.socket_path, timeout_s=HANG_S) as second:
        assert second.read_bar(0, 0, 8)


def test_a_server_without_a_control_socket_is_waited_for(socket_folder: Path) -> None:
    path = socket_folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        with pytest.raises(BusTimeoutError, match="another client may have"):
            VfioUserFunction(path, timeout_s=0.05)
    assert find_holder(path) is None
    assert find_holder("/" + "x" * 200) is None


@pytest.mark.parametrize(
    "client",
    [
        None, 3, [], {}, {"since": 5}, {"since": "yesterday"}, {"since": "2026-01-01T00:00:00"},
        {"pid": 1, "name": "x", "since": None},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_nobody(client: object) -> None:
    assert Holder.parse(client) is None


def test_wrong_types_are_left_out() -> None:
    found = Holder.parse({"pid": "1", "name": 2, "since": "2026-01-01T00:00:00+00:00"})
    assert found == Holder(None, None, datetime(2026, 1, 1, tzinfo=UTC))
    assert "another namespace" in str(found)


@pytest.mark.parametrize("answer", [b"garbage\n", b"", ControlAnswer(error_code="failed").encode(), b"x" * 100_000])
def test_a_server_that_answers_something_else_has_nobody(socket_folder: Path, answer: bytes) -> None:
    path = socket_folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path) + ".ctl")
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                with contextlib.suppress(OSError):  # the other side may have heard enough
                    connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        assert find_holder(path) is None
        server.join(HANG_S)


def test_a_server_that_does_not_answer_is_given_up(socket_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "TIMEOUT_S", 0.01)
    path = socket_folder / "a.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path) + ".ctl")
        listener.listen()
        assert find_holder(path) is None


def test_a_client_that_hung_up_is_nobody() -> None:
    """Its end may take the device a while, for which the next client waits."""
    ours, theirs = socket.socketpair()
    client = ClientProcess.of(theirs.fileno())
    try:
        record = client.record()
        assert record is not None
        assert record["pid"] == os.getpid()
        ours.close()
        assert client.record() is None
    finally:
        client.close()
        theirs.close()
    assert client.record() is None


def test_the_user_of_a_node_is_found(tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.write_text("")
    assert find_user(node) == "a process that we may not look at"
    with node.open():
        name = Path("/proc/self/comm").read_text().strip()
        assert find_user(node) == f"process {os.getpid()} ({name})"


def test_who_is_stopped_while_it_waits_goes_on_waiting(socket_folder: Path) -> None:
    """A shell's Ctrl-Z and fg."""
    path = os.fspath(socket_folder / "a.sock")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        listener.settimeout(HANG_S)
        first.connect(path)
        with subprocess.Popen([sys.executable, "-c", USER, path], stderr=subprocess.PIPE, text=True) as user:
            try:
                for _ in range(3):
                    until(lambda: user.poll() is not None or blocks_on(user.pid, "socket:"), "a user who waits")
                    user.send_signal(signal.SIGSTOP)
                    until(lambda: user.poll() is not None or stands_still(user.pid), "the stop")
                    user.send_signal(signal.SIGCONT)
                listener.accept()[0].close()
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(HANG_S)
                    assert connection.recv(4), "the user's first message"
            finally:
                user.kill()
