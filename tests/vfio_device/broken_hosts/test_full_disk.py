# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a served device writes, on a disk without room: what was answered is kept, what was refused has not happened."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from ihsm.control import ControlClient
from ihsm.ddi import Partition
from ihsm.ddi.errors import StatusError
from ihsm.embedded import LOG, EmbeddedDevice
from ihsm.errors import EmbeddedDeviceError
from ihsm.trace.files import read_recording
from ihsm_abi.ddi import DdiStatus
from support.hosts import client
from support.process import SERVE, ServeProcess, serve
from support.stores import in_child
from support.trace_runs import recorder
from support.waiting import HANG_S, until

ROOM: Final = 300
"""Bytes that a file may have: enough for the record of a new partition, not for one that has anything more."""
RECORDED: Final = 4000
"""As much for a recording: its beginning and some records."""
BK3: Final = bytes(48)
SEALED: Final = b"sealed by the owner"
WRITERS: Final[dict[str, Callable[[Partition], object]]] = {
    "certificate": lambda partition: partition.certificate_chain(),
    "boot key": lambda partition: partition.init_bk3(BK3),
    "sealed BK3": lambda partition: partition.set_sealed_bk3(SEALED),
}
"""Commands that are answered when the state directory has what they change."""


def limit_files(pid: int, most: int | None) -> None:
    """No file that a process writes to grows beyond so many bytes; None: beyond what is allowed."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if most is None else most, hard))


@contextmanager
def full(server: ServeProcess) -> Iterator[None]:
    """The server's files cannot grow meanwhile."""
    limit_files(server.pid, ROOM)
    try:
        yield
    finally:
        limit_files(server.pid, None)


def contents(state: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in state.iterdir()}


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_refused_has_not_happened_and_what_was_answered_stays(
    socket_folder: Path, tmp_path: Path, name: str
) -> None:
    state, path = tmp_path / "state", socket_folder / "a.sock"
    options = ("--socket", str(path), "--state", str(state))
    with serve(*options) as server:
        with client(path) as partition:
            for other in WRITERS:
                if other != name:
                    WRITERS[other](partition)
            before = contents(state)
            with full(server):
                with pytest.raises(StatusError) as refused:
                    WRITERS[name](partition)
                assert refused.value.status == DdiStatus.InternalError
                assert contents(state) == before
        until(lambda: server.errors, "a line about it")
        (line,) = server.errors
        assert str(state / "partition-0.json") in line
        assert "cannot be written (File too large)" in line
        server.process.kill()
        server.process.wait()
    assert contents(state) == before
    with serve(*options) as server, client(path) as partition:
        if name == "sealed BK3":
            assert partition.sealed_bk3() is None
        else:
            assert partition.sealed_bk3() == SEALED
        WRITERS[name](partition)
        assert contents(state) != before
        assert server.stop() == 0
        assert server.errors == []


@pytest.mark.parametrize("room", [0, 40, 100, ROOM])
def test_a_start_without_room_is_one_line_and_the_next_one_begins_anew(
    socket_folder: Path, tmp_path: Path, room: int
) -> None:
    """Whichever of the files of a new directory it is for which there is no room."""
    state = tmp_path / "state"
    options = ("--socket", str(socket_folder / "a.sock"), "--state", str(state))
    done = subprocess.run(
        [*SERVE, *options],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {state}")
    assert "File too large" in line
    assert not list(state.glob("*.new"))
    assert list(socket_folder.iterdir()) == []
    with serve(*options) as server:
        assert server.stop() == 0


def gone_reader() -> int:
    """A pipe whose reader has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize(
    "log", [gone_reader, lambda: os.open("/dev/full", os.O_WRONLY)], ids=["reader that is gone", "full disk"]
)
def test_a_log_that_cannot_be_written_costs_its_lines_and_no_command(
    socket_folder: Path, log: Callable[[], int]
) -> None:
    """They are counted; SIGPIPE does not end the device."""
    path, descriptor = socket_folder / "a.sock", log()
    with subprocess.Popen(
        [*SERVE, "--socket", str(path), "--log-level", "info"], stdout=subprocess.PIPE, stderr=descriptor, text=True
    ) as process:
        os.close(descriptor)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready:")
        server = ServeProcess(process, [path])
        for _ in range(2):
            with client(path) as partition:
                partition.certificate_chain()
        until(lambda: server.status()["log"]["lost_lines"] > 0, "the count of lines that were lost")
        assert server.stop() == 0


def test_a_recording_that_finds_no_room_is_one_line_and_readable_so_far(tmp_path: Path) -> None:
    file = tmp_path / "run.pcapng"
    with EmbeddedDevice() as device:
        with (
            recorder(
                device,
                "--write",
                str(file),
                stderr=subprocess.PIPE,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (RECORDED, RECORDED)),
            ) as process,
            ControlClient(device.socket_path, HANG_S) as control,
        ):
            until(lambda: not control.mark("x" * 100) or process.poll() is not None, "the end of the recording")
            _, errors = process.communicate(timeout=HANG_S)
        assert (process.returncode, errors) == (2, f"Error: {file}: File too large\n".encode())
        with file.open("rb") as opened:
            recording = read_recording(opened)
        assert len(recording.records) > 1
        with client(device.socket_path) as partition:
            partition.certificate_chain()


def test_an_embedded_device_works_on_when_there_is_no_room_for_its_log() -> None:
    """Nobody but it has that file; the count of lost lines is where others look."""
    with EmbeddedDevice(["--log-level", "info"]) as device:
        log = device.socket_path.parent / LOG
        limit_files(device.pid, log.stat().st_size + 10)
        for _ in range(2):
            with client(device.socket_path) as partition:
                partition.certificate_chain()
        with ControlClient(device.socket_path, HANG_S) as control:
            until(lambda: control.status()["log"]["lost_lines"] > 1, "the count of lines that were lost")
            limit_files(device.pid, None)
            until(lambda: b"lines were lost: the log could not be written (File too large)" in log.read_bytes(), "that")
            lost = control.status()["log"]["lost_lines"]
        (line,) = (line for line in log.read_text().splitlines() if "lines were lost" in line)
        assert f" {lost} lines were lost" in line


def test_an_embedded_device_without_room_for_its_log_does_not_start() -> None:
    """What its process would have said cannot be kept: the status is told."""

    def start() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        EmbeddedDevice()

    error = in_child(start)
    assert isinstance(error, EmbeddedDeviceError)
    assert str(error) == "the embedded device ended with status 2: it printed nothing"
