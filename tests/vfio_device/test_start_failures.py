# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A start that the system does not let happen: one line, no socket and no thread left."""

from __future__ import annotations

import errno
import pkgutil
import resource
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm_device.control_socket import ControlServer
from ihsm_device.errors import DeviceError, StartError
from ihsm_device.hsm.device import DeviceOptions, HsmDevice, StateError
from ihsm_device.hsm.module import SecurityModule
from ihsm_device.server import Server
from ihsm_device.socket_paths import listen
from support.process import SERVE
from support.waiting import HANG_S, until

FUNCTIONS: Final = 3
MIB: Final = 1 << 20


def start_below(kind: int, limit: int, *options: str) -> tuple[int, str, str]:
    """Exit status and output of a server under a limit; one that starts is ended by SIGTERM."""
    process = subprocess.Popen(
        [*SERVE, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(kind, (limit, limit)),
    )
    assert process.stdout is not None
    said = process.stdout.readline()
    if said:
        process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=HANG_S)
    return process.returncode, said + rest, errors


@pytest.mark.parametrize("doorbell", ["trap", "page"])
@pytest.mark.parametrize("limit", [5, 7, 8, 10, 12, 14, 16, 19, 22, 26, 30, 40])
def test_few_descriptors(socket_folder: Path, limit: int, doorbell: str) -> None:
    status, said, errors = start_below(
        resource.RLIMIT_NOFILE, limit, "--socket", str(socket_folder / "a.sock"), "--count", str(FUNCTIONS),
        "--doorbell", doorbell,
    )  # fmt: skip
    if said:
        assert (status, errors) == (0, "")
    else:
        assert status == 1
        assert errors.splitlines()[-1].startswith("Error: ")
        assert len(errors.splitlines()) == 1
    assert list(socket_folder.iterdir()) == []


@pytest.mark.parametrize("limit", [200 * MIB, 300 * MIB, 400 * MIB])
def test_little_memory(socket_folder: Path, limit: int) -> None:
    status, said, errors = start_below(
        resource.RLIMIT_AS, limit, "--socket", str(socket_folder / "a.sock"), "--count", str(FUNCTIONS)
    )
    assert "Traceback" not in errors
    if not said:
        assert status == 1
        assert errors.startswith("Error: ")
    assert list(socket_folder.iterdir()) == []


def test_no_thread_at_any_point_of_the_start(socket_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused at the first thread, then at the second, and so on until all are there."""
    before = threading.active_count()
    start = threading.Thread.start
    left = [0]

    def refuse_the_last(thread: threading.Thread) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("can't start new thread")
        start(thread)

    for allowed in range(100):
        left[0] = 100
        with HsmDevice(DeviceOptions()) as hsm:
            monkeypatch.setattr(threading.Thread, "start", refuse_the_last)
            paths = [socket_folder / f"{index}.sock" for index in range(FUNCTIONS)]
            server = Server(paths, lambda index, hsm=hsm: SecurityModule.open(hsm, index, 1))  # type: ignore[misc]
            left[0] = allowed
            finished = True
            try:
                server.start()
            except RuntimeError:
                finished = False
            server.stop()
            monkeypatch.undo()
        assert list(socket_folder.iterdir()) == []
        until(lambda: threading.active_count() == before, "the end of every thread")
        if finished:
            assert allowed > FUNCTIONS
            return
    raise AssertionError("it never started")


@pytest.mark.parametrize("call", ["os.eventfd", "ihsm_device.engine.Engine._share_page"])
def test_a_function_that_fails_half_way_leaves_no_socket(
    socket_folder: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The second function's: everything of the first one goes too."""
    made = pkgutil.resolve_name(call)
    calls = [0]

    def refuse_the_second(*arguments: Any) -> int:
        calls[0] += 1
        if calls[0] > 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return int(made(*arguments))

    monkeypatch.setattr(call, refuse_the_second)
    with HsmDevice(DeviceOptions()) as hsm:
        paths = [socket_folder / f"{index}.sock" for index in range(FUNCTIONS)]
        with pytest.raises(OSError, match="Too many open files"):
            Server(paths, lambda index: SecurityModule.open(hsm, index, 1), doorbell_page=True)
    assert list(socket_folder.iterdir()) == []


def test_a_control_thread_without_descriptors_is_no_hang(socket_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener, file = listen(socket_folder / "a.ctl")
    server = ControlServer()
    server.add(listener, {})

    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("asyncio.run", lambda work: (work.close(), fail()))
    with pytest.raises(OSError, match="Too many"):
        server.start()
    server.stop()
    assert listener.fileno() == -1
    file.remove()


@pytest.mark.parametrize(
    ("cause", "text"),
    [
        (MemoryError(), "not enough memory"),
        (OSError(errno.EMFILE, "x"), "ulimit -n"),
        (OSError(errno.EPERM, "Operation not permitted"), "Operation not permitted"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (RuntimeError("two\nlines"), "two lines"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_the_reason_is_one_line(cause: Exception, text: str) -> None:
    said = str(StartError(cause))
    assert said.startswith("the device cannot start: ")
    assert text in said
    assert "\n" not in said


def test_errors_of_the_state_are_errors_of_the_device() -> None:
    assert issubclass(StateError, DeviceError)
