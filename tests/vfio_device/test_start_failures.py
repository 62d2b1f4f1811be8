# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A start that the system does not let happen: one line, no socket and no thread left."""

from __future__ import annotations

import errno
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.control import ControlClient
from ihsm_abi.pci import MSIX_VECTORS, PAGE_BYTES
from ihsm_device.control_socket import ControlServer
from ihsm_device.errors import DeviceError
from ihsm_device.hsm.device import DeviceOptions, HsmDevice, StateError
from ihsm_device.hsm.module import SecurityModule
from ihsm_device.limits import (
    FILE_DESCRIPTORS,
    FUNCTION_DESCRIPTORS,
    MESSAGE_DESCRIPTORS,
    MIN_CONTROL_CONNECTIONS,
    PASSING_DESCRIPTORS,
    PROCESS_DESCRIPTORS,
    needed_descriptors,
)
from ihsm_device.sandbox import Confinement
from ihsm_device.scheduler import Scheduler
from ihsm_device.server import Server
from ihsm_device.socket_paths import listen
from ihsm_device.start_needs import StartError, least_memory
from support.process import SERVE, serve
from support.waiting import HANG_S, until

FUNCTIONS: Final = 3
IHSM: Final = (sys.executable, "-m", "ihsm", "serve")
"""As users have it, the program's first lines included."""


def start_below(kind: int, limit: int, *options: str, program: Sequence[str] = SERVE) -> tuple[int, str, str]:
    """Exit status and output of a server under a limit; one that starts is ended by SIGTERM."""
    process = subprocess.Popen(
        [*program, *options],
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


@pytest.mark.parametrize(
    ("functions", "limit"), [(1, 5), (1, 16), (1, 24), (1, needed_descriptors(1) - 1), (3, needed_descriptors(3) - 1)]
)
def test_few_descriptors(socket_folder: Path, functions: int, limit: int) -> None:
    status, said, errors = start_below(
        resource.RLIMIT_NOFILE, limit, "--socket", str(socket_folder / "a.sock"), "--count", str(functions)
    )
    assert (status, said) == (1, "")
    whose = "a function and its client need" if functions == 1 else "3 functions and their clients need"
    assert errors == (
        f"Error: the device cannot start: {limit} open files are allowed, {whose} {needed_descriptors(functions)}: "
        "raise the limit (ulimit -n) or serve fewer functions\n"
    )
    assert list(socket_folder.iterdir()) == []


@pytest.mark.parametrize("functions", [1, FUNCTIONS])
def test_what_a_device_has_open_is_what_it_counts_with(socket_folder: Path, tmp_path: Path, functions: int) -> None:
    options = ("--count", str(functions), "--doorbell", "page", "--state", str(tmp_path / "state"))
    with serve("--socket", str(socket_folder / "a.sock"), *options) as server:
        asking = 1  # the connection by which the device tells it
        assert server.open_files() - asking == PROCESS_DESCRIPTORS + functions * FUNCTION_DESCRIPTORS


def test_as_many_descriptors_as_are_needed_are_enough(socket_folder: Path) -> None:
    """Every function has a client with all interrupts and as many files as count, and tells of itself to some."""
    allowed = needed_descriptors(FUNCTIONS)
    options = ("--socket", str(socket_folder / "a.sock"), "--count", str(FUNCTIONS), "--doorbell", "page")
    program = ("prlimit", f"--nofile={allowed}:{allowed}", *SERVE)
    with serve(*options, program=program) as server, ExitStack() as clients:
        for path in server.paths:
            controls = [clients.enter_context(ControlClient(path, HANG_S)) for _ in range(MIN_CONTROL_CONNECTIONS)]
            function = clients.enter_context(VfioUserFunction(path, timeout_s=HANG_S))
            for number in range(FILE_DESCRIPTORS):
                clients.callback(os.close, file := os.memfd_create("memory"))
                os.ftruncate(file, PAGE_BYTES)
                function.map_dma(file, 0, number * PAGE_BYTES, PAGE_BYTES)
            events = [os.eventfd(0) for _ in range(MSIX_VECTORS)]
            for event in events:
                clients.callback(os.close, event)
            function.enable_interrupts(events)
            most = [control.status()["open_files"] for control in controls][-1]
        assert allowed - MESSAGE_DESCRIPTORS * FUNCTIONS - PASSING_DESCRIPTORS <= most + 1
        clients.close()
        assert server.stop() == 0
        assert server.errors == []


@pytest.mark.parametrize(
    ("kind", "limit", "name"),
    [
        (resource.RLIMIT_DATA, 10_000 << 10, None),
        (resource.RLIMIT_DATA, 40_000 << 10, "ulimit -d"),
        (resource.RLIMIT_DATA, 65_000 << 10, "ulimit -d"),
        (resource.RLIMIT_DATA, 120_000 << 10, "ulimit -d"),
        (resource.RLIMIT_AS, 50_000 << 10, "ulimit -v"),
        (resource.RLIMIT_AS, 100_000 << 10, "ulimit -v"),
        (resource.RLIMIT_AS, 150_000 << 10, "ulimit -v"),
        (resource.RLIMIT_AS, 200_000 << 10, "ulimit -v"),
    ],
)
def test_little_memory(socket_folder: Path, kind: int, limit: int, name: str | None) -> None:
    """The line names the limit; where there is too little to find out which it is, it says what is short."""
    options = ("--socket", str(socket_folder / "a.sock"), "--count", str(FUNCTIONS))
    status, said, errors = start_below(kind, limit, *options, program=IHSM)
    assert (status, said) == (1, "")
    text = f"the device cannot start: not enough memory: raise the limit ({name})" if name else "out of memory"
    assert errors == f"Error: {text}\n"
    assert list(socket_folder.iterdir()) == []


def test_the_least_memory_is_no_more_than_what_a_device_takes(socket_folder: Path) -> None:
    """Who has less could not be served anyhow: nobody is refused who could."""
    addresses, data = least_memory(1)
    with serve("--socket", str(socket_folder / "a.sock"), "--hsm-threads", "1") as server:
        assert data <= server.status_field("VmData") << 10
        assert addresses <= server.status_field("VmSize") << 10


def test_threads_that_are_refused_for_want_of_memory_are_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python has the same words for both."""
    refused = RuntimeError("can't start new thread")
    assert "ulimit -u" in str(StartError(refused))
    monkeypatch.setattr("ihsm_device.start_needs._can_map", lambda size: False)
    assert str(StartError(refused)) == "the device cannot start: not enough memory"


def test_a_library_that_finds_no_memory_is_told_as_that() -> None:
    cause = ImportError("Original error was: libx.so: failed to map segment from shared object")
    assert str(StartError(cause)) == "the device cannot start: not enough memory"


def test_a_scheduler_without_descriptors_says_so() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            Scheduler()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_sandbox_that_is_short_of_descriptors_is_not_a_weaker_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel has, and this process cannot have for now, is not given up."""

    def fail(rules: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("ihsm_device.sandbox.landlock.restrict", fail)
    monkeypatch.setattr("ihsm_device.sandbox.privileges.keep_capabilities", lambda: None)
    monkeypatch.setattr("ihsm_device.sandbox.confinement.resource.setrlimit", lambda kind, limits: None)
    confinement = Confinement()
    with pytest.raises(OSError, match="Too many open files"):
        confinement.restrict(None, [])
    assert confinement.record()["weaker"] == []


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
