# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The server's log: what guests cause is limited, and nobody waits for whoever reads it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import queue
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi import logs
from ihsm_device import log_writer
from ihsm_device.log_writer import FUNCTION_LINES, KIND_LINES, MAX_KINDS, MAX_QUEUED, PERIOD_S, LogWriter
from support.process import SERVE, json_lines, serve
from support.waiting import HANG_S, until

UNKNOWN_COMMAND = 77
HEADER = struct.Struct("<HHIII")


class Rig:
    """A writer into a file, with a clock that the test sets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.writer = LogWriter(self.descriptor, lambda: self.now)
        self.writer.setFormatter(logs.JsonFormatter())
        self.log = logging.Logger("test")
        self.log.addHandler(self.writer)

    def lines(self) -> list[str]:
        """Messages written, all of them: the writer is closed."""
        self.writer.close()
        return [entry["message"] for entry in json_lines(self.path.read_text().splitlines())]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "log")
    made.writer.start()
    yield made
    made.writer.close()
    os.close(made.descriptor)
    logs.concern(None)


def started(descriptor: int) -> tuple[LogWriter, logging.Logger]:
    """A writer that writes to `descriptor`, and a log that it is the handler of."""
    writer, log = LogWriter(descriptor), logging.Logger("test")
    log.addHandler(writer)
    writer.start()
    return writer, log


def test_a_kind_gets_some_lines_and_a_count(rig: Rig) -> None:
    for value in range(1000):
        rig.log.error("bad value %d", value)
    rig.log.warning("bad value %d", 5)
    assert rig.lines() == [
        *(f"bad value {value}" for value in range(KIND_LINES)),
        "bad value 5",
        f"repeated {1000 - KIND_LINES} times within {PERIOD_S:g} s: bad value 999",
    ]


def test_lines_of_a_library_that_differ_in_numbers_are_one_kind(rig: Rig) -> None:
    for value in range(100):
        rig.log.error("%s", f"bad write of {value} bytes at {value:#x}")
    assert len(rig.lines()) == KIND_LINES + 1


def test_the_next_period_begins_anew(rig: Rig) -> None:
    for _ in range(2):
        for _ in range(100):
            rig.log.error("bad")
        rig.now += PERIOD_S
    said = rig.lines()
    assert [line.startswith("repeated 95 times") for line in said] == 2 * [*([False] * KIND_LINES), True]


def test_the_count_comes_though_nothing_follows(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "LOOK_EVERY_S", 0.001)
    for _ in range(100):
        rig.log.error("bad")
    rig.now += PERIOD_S
    until(lambda: "repeated 95 times" in rig.path.read_text(), "the count")


class Waits(queue.SimpleQueue[bytes | None]):
    """A queue that keeps how long its reader was ready to wait."""

    def __init__(self) -> None:
        self.limits: list[float | None] = []

    def get(self, block: bool = True, timeout: float | None = None) -> bytes | None:
        self.limits.append(timeout)
        return super().get(block, timeout)


def test_a_log_that_owes_nothing_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without work costs nothing: its log's thread sleeps but for the period after a line."""
    monkeypatch.setattr(log_writer, "LOOK_EVERY_S", 0.001)
    rig = Rig(tmp_path / "log")
    rig.writer._queue = waits = Waits()
    rig.writer.start()
    until(lambda: waits.limits == [None], "sleep before a line")
    rig.log.error("bad")
    until(lambda: len(waits.limits) > 3, "looks within its period")
    assert set(waits.limits[1:]) == {0.001}
    rig.now += PERIOD_S
    until(lambda: waits.limits[-1] is None, "sleep when the period is over")
    assert rig.lines() == ["bad"]
    os.close(rig.descriptor)


def test_one_function_does_not_use_up_the_lines_of_another(rig: Rig) -> None:
    for function in (0, 1):
        logs.concern(function)
        for _ in range(100):
            rig.log.error("bad")
    logs.concern(None)
    rig.log.error("bad")
    rig.writer.close()
    entries = json_lines(rig.path.read_text().splitlines())
    assert [entry.get("function") for entry in entries].count(0) == KIND_LINES + 1
    assert [entry.get("function") for entry in entries].count(1) == KIND_LINES + 1
    assert [entry.get("function") for entry in entries].count(None) == 1


def test_many_kinds_are_limited_too(rig: Rig) -> None:
    logs.concern(0)
    for kind in range(10 * MAX_KINDS):
        for _ in range(3):
            rig.log.error("%s", "bad " + "x" * kind)
    assert len(rig.lines()) <= FUNCTION_LINES + MAX_KINDS + 1


def test_whoever_debugs_sees_everything(rig: Rig) -> None:
    for _ in range(100):
        rig.log.debug("detail")
    assert rig.lines() == ["detail"] * 100


def test_a_pipe_that_nobody_reads_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines beyond a number are lost and counted; the lock of the log is free while a line cannot be written."""
    monkeypatch.setattr(log_writer, "CLOSE_TIMEOUT_S", 0.0)
    read_end, write_end = os.pipe()
    writer, log = started(write_end)
    for _ in range(MAX_QUEUED + 5000):
        log.debug("x" * 100)
    assert writer.lock is not None
    assert writer.lock.acquire(timeout=HANG_S)
    writer.lock.release()
    writer.close()
    with os.fdopen(read_end, "rb") as file:
        first = file.read(1 << 16)
        assert first.startswith(b"x" * 100)
        until(lambda: writer._queue.qsize() == 0 or not file.read(1 << 12), "room for the rest")
        log.debug("heard again")
    os.close(write_end)


def test_a_descriptor_that_takes_nothing_is_no_error() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        writer, log = started(full.fileno())
        log.error("lost")
        writer.close()


def test_what_could_not_be_written_is_counted_and_told_when_it_can_be_again(tmp_path: Path) -> None:
    """A reader that has gone, then a file in its place; nothing more has to be logged for that."""
    reader, descriptor = os.pipe()
    os.close(reader)
    writer, log = started(descriptor)
    for number in range(3):
        log.debug("lost %d", number)
    until(lambda: writer.lost == 3, "the count")
    path = tmp_path / "log"
    with path.open("wb") as file:
        os.dup2(file.fileno(), descriptor)
    told = "3 lines were lost: the log could not be written (Broken pipe)"
    until(lambda: path.read_text(), "a line about it")
    log.debug("heard")
    writer.close()
    os.close(descriptor)
    assert path.read_text().splitlines() == [told, "heard"]
    assert writer.lost == 3


def test_a_line_of_which_a_part_was_written_ends_before_the_next(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk had room for a part of it."""
    write, room = os.write, [5]

    def full(descriptor: int, data: bytes) -> int:
        if descriptor == rig.descriptor and len(data) > room[0]:
            if not room[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            room[0] -= (written := write(descriptor, data[: room[0]]))
            return written
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    rig.log.error("first")
    until(lambda: rig.writer.lost == 1, "the count")
    monkeypatch.undo()
    rig.log.error("second")
    rig.writer.close()
    lines = rig.path.read_text().splitlines()
    assert lines[0] == '{"tim'
    messages = [entry["message"] for entry in json_lines(lines[1:])]
    assert messages == ["1 lines were lost: the log could not be written (No space left on device)", "second"]


def test_lines_beyond_the_queue_are_told_of_though_nothing_follows(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_writer, "MAX_QUEUED", 0)
    for _ in range(7):
        rig.log.debug("detail")
    monkeypatch.undo()
    assert rig.lines() == ["7 lines were lost: whoever reads the log was too slow"]
    assert rig.writer.lost == 7


def test_a_line_for_which_there_is_no_memory_is_lost_and_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> str:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(rig.writer.formatter, "format", fail)
        rig.log.error("lost")
    rig.log.error("heard")
    assert rig.lines() == ["1 lines were lost: whoever reads the log was too slow", "heard"]


def test_what_was_logged_before_a_start_that_fails_is_written(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "log")
    rig.log.error("first words")
    assert rig.lines() == ["first words"]
    os.close(rig.descriptor)


def flood(path: Path, messages: int) -> None:
    """Commands that do not exist, each of which the library reports."""
    with VfioUserFunction(path, timeout_s=HANG_S) as function:
        connection = function._connection._live()
        for number in range(messages):
            connection.sendall(HEADER.pack(number, UNKNOWN_COMMAND, HEADER.size, 0, 0))
            connection.recv(64)


def test_a_guest_does_not_fill_the_log(socket_folder: Path) -> None:
    with serve("--socket", str(socket_folder / "a.sock"), "--log-format", "json") as server:
        flood(server.paths[0], 2000)
        assert server.stop() == 0
    entries = json_lines(server.errors)
    assert len(entries) < 100
    assert {entry["function"] for entry in entries} == {0}
    assert any("repeated" in entry["message"] and "77" in entry["message"] for entry in entries)


def test_a_log_that_nobody_reads_stops_no_function(socket_folder: Path) -> None:
    """Neither the one that fills it nor another, nor the end of the process."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write_end, False)
    os.write(write_end, b"x" * 4096)
    os.set_blocking(write_end, True)
    paths = [socket_folder / "a.sock", socket_folder / "a.sock.1"]
    with subprocess.Popen(
        [*SERVE, "--socket", str(paths[0]), "--count", "2"], stdout=subprocess.PIPE, stderr=write_end
    ) as server:
        os.close(write_end)
        assert server.stdout is not None
        assert server.stdout.readline().startswith(b"ready")
        flooding = threading.Thread(target=flood, args=(paths[0], 1000))
        flooding.start()
        with VfioUserFunction(paths[1], timeout_s=HANG_S) as other:
            assert other.read_bar(0, 0, 8)
        flooding.join(HANG_S)
        assert not flooding.is_alive()
        server.terminate()
        assert server.wait(HANG_S) == 0
    os.close(read_end)


def test_a_line_of_json_names_its_function() -> None:
    record = logging.makeLogRecord({"name": "n", "levelname": "ERROR", "msg": "m", "threadName": "t"})
    assert "function" not in json.loads(logs.JsonFormatter().format(record))
    logs.concern(3)
    assert json.loads(logs.JsonFormatter().format(record))["function"] == 3
    logs.concern(None)
