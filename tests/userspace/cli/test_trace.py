# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm trace`: live lines, JSON and files, filters and limits, marks, and readers that go away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ihsm.cli.trace import trace
from ihsm.control import ControlClient
from ihsm.embedded import EmbeddedDevice
from ihsm.trace.pcapng import read_file
from ihsm.trace.records import Mark, Start
from support.commands import refused, run, succeed, uri
from support.trace_runs import recorder, until_written
from support.waiting import HANG_S, until


@contextmanager
def recording(device: EmbeddedDevice, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """`ihsm trace`, whose output is read, and which ends within the context."""
    with recorder(device, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        yield process
        assert process.poll() is not None


def mark(device: EmbeddedDevice, *texts: str) -> None:
    with ControlClient(device.socket_path, HANG_S) as client:
        for text in texts:
            assert client.mark(text)


def until_nobody_records(device: EmbeddedDevice) -> None:
    with ControlClient(device.socket_path, HANG_S) as client:
        until(lambda: not client.mark("?"), "the end of recording")


def test_lines_until_there_are_enough(device: EmbeddedDevice) -> None:
    with recording(device, "--filter", "kind=mark", "--count", "3") as process:
        mark(device, "one", 'two "quoted" \x1b[31m\n')
        out, error = process.communicate(timeout=HANG_S)
    lines = out.decode().splitlines()
    assert (process.returncode, error) == (0, b"")
    assert [line.split(maxsplit=3)[2] for line in lines] == ["start", "mark", "mark", "mark"]
    assert lines[1].endswith('text="begin"')
    assert lines[3].endswith('text="two \\"quoted\\" \\x1b[31m\\n"')


def test_json_of_a_command(device: EmbeddedDevice) -> None:
    with recording(device, "--json", "--filter", "kind=request,response,mark") as process:
        succeed("info", "--device", uri(device))
        mark(device, "end")
        assert process.stdout is not None
        records = []
        for line in process.stdout:
            records.append(json.loads(line))
            if records[-1].get("text") == "end":
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(HANG_S) == 0
    kinds = [record["kind"] for record in records]
    assert kinds[0] == "start"
    assert kinds.count("request") == kinds.count("response") > 0
    request = next(record for record in records if record["kind"] == "request")
    assert {"time_ns", "function", "queue", "cid", "length", "message", "ddi.op", "ddi.op_name"} <= set(request)


def test_a_file_after_an_interrupt_is_whole(device: EmbeddedDevice, tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    with recording(device, "--write", str(file)) as process:
        mark(device, "one", "two")
        until_written(file, b"two")
        process.send_signal(signal.SIGINT)
        assert process.wait(HANG_S) == 0
    with file.open("rb") as opened:
        packets = list(read_file(opened))
    assert isinstance(packets[0].record, Start)
    assert [packet.record.text for packet in packets if isinstance(packet.record, Mark)][-2:] == ["one", "two"]
    assert {packet.interface for packet in packets} == {f"{device.socket_path} (function 0)"}


def test_a_pipe_gets_each_batch_at_once_and_may_end(device: EmbeddedDevice) -> None:
    with recording(device, "--write", "-") as process:
        assert process.stdout is not None
        mark(device, "first")
        packets = read_file(process.stdout)  # type: ignore[arg-type]
        until(lambda: isinstance(record := next(packets).record, Mark) and record.text == "first", "the mark")
        process.stdout.close()  # as Wireshark does when its capture is stopped
        with ControlClient(device.socket_path, HANG_S) as client:
            until(lambda: not client.mark("more"), "the end of the command")
        assert process.wait(HANG_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_pipe_that_is_closed_before_the_first_byte(device: EmbeddedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)  # as if it had gone after the command had begun
        trace.main(["--device", uri(device), "--write", "-"], standalone_mode=False)
    until_nobody_records(device)


def test_lines_to_a_reader_that_goes_away(device: EmbeddedDevice) -> None:
    with recording(device) as process:
        assert process.stdout is not None
        process.stdout.close()
        with ControlClient(device.socket_path, HANG_S) as client:
            until(lambda: not client.mark("more"), "the end of the command")
        assert process.wait(HANG_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_an_end_by_the_clock(device: EmbeddedDevice, tmp_path: Path) -> None:
    succeed("trace", "--device", uri(device), "--seconds", "0", "--write", tmp_path / "a.pcapng")
    with (tmp_path / "a.pcapng").open("rb") as opened:
        assert len(list(read_file(opened))) <= 1
    until_nobody_records(device)


def test_the_end_of_the_device_is_the_end(tmp_path: Path) -> None:
    with EmbeddedDevice() as own, recorder(own, "--write", str(tmp_path / "a")) as process:
        own.close()
        assert process.wait(HANG_S) == 0


def test_several_functions_in_one_file(tmp_path: Path) -> None:
    file = tmp_path / "two.pcapng"
    with EmbeddedDevice(["--count", "2"]) as two:
        paths = [two.socket_path, f"{two.socket_path}.1"]
        options = [option for path in paths for option in ("--device", f"vfio-user:{path}")]
        thread = threading.Thread(
            target=succeed, args=("trace", *options, "--write", file, "--filter", "mark", "--count", "2")
        )
        thread.start()
        for number, path in enumerate(paths):
            with ControlClient(path, HANG_S) as client:
                until(lambda client=client, number=number: client.mark(f"mark {number}"), "a reader")  # type: ignore[misc]
        thread.join(HANG_S)
        assert not thread.is_alive()
    with file.open("rb") as opened:
        packets = list(read_file(opened))
    marks = {packet.interface: packet.record for packet in packets if isinstance(packet.record, Mark)}
    assert {name: (mark.function, mark.text) for name, mark in marks.items()} == {
        f"{path} (function {number})": (number, f"mark {number}") for number, path in enumerate(paths)
    }


@pytest.mark.parametrize(
    ("condition", "why"),
    [
        ("kind=entries", "none of register-read"),
        ("nothing=3", "none of kind"),
        ("queue=x", "no queue"),
        ("queue=", "no queue"),
        ("entry,thing", "'thing' is none of"),
        ("operation=Sign", "no operation"),
    ],
)
def test_filters_that_are_none(device: EmbeddedDevice, condition: str, why: str) -> None:
    assert why in refused(2, "trace", "--device", uri(device), "--filter", condition)


def test_files_that_cannot_be(device: EmbeddedDevice, tmp_path: Path) -> None:
    line = refused(2, "trace", "--device", uri(device), "--write", tmp_path / "nowhere" / "a.pcapng")
    assert "nowhere" in line
    assert "exclude" in refused(2, "trace", "--device", uri(device), "--write", "-", "--json")
    until_nobody_records(device)


def test_no_device() -> None:
    assert "no device found" in refused(3, "trace")
    assert "no control socket" in refused(3, "trace", "--device", "pci:0000:00:01.0")


def test_marks(device: EmbeddedDevice) -> None:
    with recording(device, "--filter", "mark", "--count", "2") as process:
        assert succeed("trace", "mark", "--device", uri(device), "here it begins") == b""
        out, _ = process.communicate(timeout=HANG_S)
    assert b'text="here it begins"' in out
    until_nobody_records(device)
    assert "nobody records" in refused(1, "trace", "mark", "--device", uri(device), "lost")
    assert "TEXT" in refused(2, "trace", "mark", "--device", uri(device), "")


def test_options_before_a_sub_command_are_refused(device: EmbeddedDevice) -> None:
    assert "behind mark" in refused(2, "trace", "--device", uri(device), "mark", "text")
    assert "behind rules" in refused(2, "trace", "--filter", "queue=1", "rules")


def test_what_was_filtered_is_not_judged(device: EmbeddedDevice, tmp_path: Path) -> None:
    file = tmp_path / "chosen.pcapng"
    succeed("trace", "--device", uri(device), "--filter", "kind!=entry", "--filter", "queue!=3", "--seconds", "0.1",
            "--write", file)  # fmt: skip
    assert "--filter kind!=entry queue!=3" in refused(2, "trace", "check", file)
    succeed("trace", "--device", uri(device), "--seconds", "0.1", "--write", file)
    succeed("trace", "check", file)


def test_the_dissector_and_where_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    script = succeed("trace", "dissector")
    assert b"Proto(NAME" in script
    printed = succeed("trace", "dissector", "--install").decode().strip()
    assert printed == f"{tmp_path}/.local/lib/wireshark/plugins/ihsm.lua"
    assert Path(printed).read_bytes() == script
    (tmp_path / ".local/lib/wireshark/plugins/ihsm.lua").unlink()
    (tmp_path / ".local/lib/wireshark/plugins").rmdir()
    (tmp_path / ".local/lib/wireshark/plugins").write_text("in the way")
    assert refused(2, "trace", "dissector", "--install")
    assert run("trace", "--help").exit_code == 0
