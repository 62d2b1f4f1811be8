# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Readers of a trace at the control socket: what they get, what slow ones do not, and that nobody waits for them."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.control import ControlClient
from ihsm.errors import ControlError, DeviceNotFoundError
from ihsm.trace.live import TraceReader
from ihsm.trace.records import Entry, FaultAdded, Lost, Mark, Queue, Record, Start, decode
from ihsm_abi.control import MAX_MARK_CHARACTERS, MAX_TRACE_READERS, ControlErrorCode
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import Fault, Match
from ihsm_abi.trace import FORMAT_VERSION, LostWhere, TraceKind
from ihsm_device import trace_commands
from ihsm_device.server import Server
from support.modules import ReversingModule
from support.polled import PolledDriver
from support.waiting import HANG_S, until


@pytest.fixture
def path(socket_folder: Path) -> Path:
    return socket_folder / "f.sock"


@pytest.fixture
def server(path: Path) -> Iterator[Server]:
    server = Server([path, path.with_suffix(".second")], lambda index: ReversingModule())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def client(server: Server, path: Path) -> Iterator[ControlClient]:
    with ControlClient(path, HANG_S) as client:
        yield client


def until_mark(reader: TraceReader, text: str) -> list[Record]:
    """What a reader gets up to a mark, without that."""
    found: list[Record] = []
    while True:
        records = [decode(record) for record in reader.read(HANG_S)]
        assert records, f"the mark {text!r} does not come"
        for record in records:
            if isinstance(record, Mark) and record.text == text:
                return found
            found.append(record)


def recording(server: Server) -> bool:
    return server.functions[0].trace.messages


def test_a_reader_gets_what_happens_from_its_beginning_on(server: Server, client: ControlClient, path: Path) -> None:
    assert not client.mark("before")
    with TraceReader(path) as reader:
        assert (reader.start.version, reader.start.ready, reader.start.function) == (FORMAT_VERSION, 0, 0)
        assert reader.start.software
        for number in range(100):
            assert client.mark(f"mark {number}")
        client.mark("end")
        marks = [record.text for record in until_mark(reader, "end") if isinstance(record, Mark)]
    assert marks == [f"mark {number}" for number in range(100)]


def test_recording_ends_with_the_last_reader(server: Server, client: ControlClient, path: Path) -> None:
    with TraceReader(path), TraceReader(path):
        assert recording(server)
    until(lambda: not recording(server), "the end of recording")
    assert not client.mark("nobody")
    with TraceReader(path) as again:
        client.mark("end")
        assert [type(record) for record in until_mark(again, "end")] == [Start]


def test_several_readers_get_the_same(server: Server, client: ControlClient, path: Path) -> None:
    with TraceReader(path) as first, TraceReader(path) as second:
        client.mark("one")
        client.mark("end")
        one, two = (
            [record for record in until_mark(reader, "end") if not isinstance(record, Start)]
            for reader in (first, second)
        )
    assert one == two
    assert [type(record) for record in one] == [Mark]


def test_functions_record_apart(server: Server, client: ControlClient, path: Path) -> None:
    second = path.with_suffix(".second")
    with TraceReader(path) as reader, TraceReader(second) as other, ControlClient(second, HANG_S) as other_client:
        client.mark("first")
        client.mark("end")
        other_client.mark("end")
        assert [record.function for record in until_mark(reader, "end")] == [0, 0]
        assert [(type(record), record.function) for record in until_mark(other, "end")] == [(Start, 1)]


def test_a_trace_begins_with_what_there_is(server: Server, client: ControlClient, path: Path) -> None:
    client.add_fault(Fault(FaultAction.DROP_COMPLETION, Match(queue=1)))
    with VfioUserFunction(path) as function:
        driver = PolledDriver(function)
        driver.enable()
        driver.create_pair(1, vector=3, entries=8)
        with TraceReader(path) as reader:
            start = reader.start
            client.mark("end")
            queues = {record.queue: record for record in until_mark(reader, "end") if isinstance(record, Queue)}
        with TraceReader(path) as reader:
            client.mark("end")
            (fault,) = [record for record in until_mark(reader, "end") if isinstance(record, FaultAdded)]
        driver.close()
    assert start.ready == 1
    assert set(queues) == {0, 1}
    assert (queues[1].vector, queues[1].sq_live, queues[1].cq_live) == (3, 1, 1)
    assert (queues[1].sq_entries, queues[1].sq_tail, queues[1].cq_entries) == (8, 0, 8)
    assert (queues[0].sq_head, queues[0].sq_tail, queues[0].cq_tail) == (2, 2, 2)
    assert (fault.fault, fault.text) == (1, "drop-completion queue=1")


def test_only_kinds_that_are_wanted_are_recorded(server: Server, client: ControlClient, path: Path) -> None:
    with TraceReader(path, ["entry", "mark"]) as reader, VfioUserFunction(path) as function:
        assert not recording(server)
        driver = PolledDriver(function)
        driver.enable()
        driver.create_pair(1)
        client.mark("end")
        kinds = {type(record) for record in until_mark(reader, "end")}
        driver.close()
    assert kinds == {Start, Entry}


def test_a_slow_reader_loses_records_that_are_counted_and_holds_up_nobody(
    server: Server, client: ControlClient, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_commands, "MAX_WAITING_BYTES", 100_000)
    with TraceReader(path) as slow, TraceReader(path) as quick:
        sent = 3000
        for number in range(sent):
            assert client.mark(f"{number}:".ljust(MAX_MARK_CHARACTERS, "."))
            quick.read(0)
        client.mark("last")
        until_mark(quick, "last")
        got: list[Record] = []

        def told() -> bool:
            """What waits for it comes as it reads; from then on it has room, and is told with the next records."""
            client.mark("more")
            got.extend(map(decode, slow.read(0.01)))
            return any(isinstance(record, Lost) for record in got)

        until(told, "the number of records that the slow reader did not get")
        losses = [record for record in got if isinstance(record, Lost)]
        lost = sum(record.count for record in losses)
        marks = sum(isinstance(record, Mark) and record.text[0].isdigit() for record in got)
        assert {record.where for record in losses} == {LostWhere.READER}
        assert 0 < marks < sent
        assert lost >= sent - marks


def test_there_is_a_limit_of_readers(server: Server, path: Path) -> None:
    readers = [TraceReader(path) for _ in range(MAX_TRACE_READERS)]
    with pytest.raises(ControlError) as refused:
        TraceReader(path)
    assert refused.value.code == ControlErrorCode.TOO_MANY_READERS
    for reader in readers:
        reader.close()
    until(lambda: not recording(server), "the end of recording")
    TraceReader(path).close()


def test_a_reader_that_stops_sending_is_served_to_the_end_of_its_stream(server: Server, path: Path) -> None:
    """It ends its direction: what was recorded until then comes, then the end."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(HANG_S)
        client.connect(f"{path}.ctl")
        client.sendall(b'{"command": "trace.start", "id": 3}\n')
        lines = client.makefile("rb")
        answer = json.loads(lines.readline())
        assert (answer["id"], answer["ok"], answer["result"]["version"]) == (3, True, FORMAT_VERSION)
        assert answer["result"]["socket"] == str(path)
        client.shutdown(socket.SHUT_WR)
        lines.read()
    until(lambda: not recording(server), "the end of recording")


def test_the_end_of_the_device_ends_the_stream(path: Path) -> None:
    server = Server([path], lambda index: ReversingModule())
    server.start()
    with TraceReader(path) as reader:
        reader.read(HANG_S)
        server.stop()
        while not reader.ended:
            reader.read(HANG_S)
        assert reader.read(0) == []


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("trace.start", {"kinds": "entry"}, "list"),
        ("trace.start", {"kinds": ["entries"]}, "entry, completion"),
        ("trace.start", {"kinds": [["entry"]]}, "none of"),
        ("trace.start", {"kind": []}, "kinds"),
        ("trace.mark", {}, "text"),
        ("trace.mark", {"text": ""}, "text"),
        ("trace.mark", {"text": 3}, "text"),
        ("trace.mark", {"text": "x" * (MAX_MARK_CHARACTERS + 1)}, str(MAX_MARK_CHARACTERS)),
    ],
)
def test_what_is_refused(client: ControlClient, command: str, arguments: dict[str, object], text: str) -> None:
    with pytest.raises(ControlError, match=text) as refused:
        client.call(command, **arguments)
    assert refused.value.code == ControlErrorCode.BAD_REQUEST
    assert client.status()["schema"] == 1


def test_marks_of_any_characters(server: Server, client: ControlClient, path: Path) -> None:
    with TraceReader(path) as reader:
        client.mark("Größe \U0001f600 \x1b[31m")
        client.mark("end")
        texts = [record.text for record in until_mark(reader, "end") if isinstance(record, Mark)]
    assert texts == ["Größe \U0001f600 \x1b[31m"]


def test_nobody_there(path: Path) -> None:
    with pytest.raises(DeviceNotFoundError):
        TraceReader(path)


def test_a_build_without_hooks_says_so(server: Server, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Without:
        def ihsm_trace_prepare(self, *arguments: object) -> int:
            return -errno.EOPNOTSUPP

    monkeypatch.setattr("ihsm_device.trace.lib", Without())
    with pytest.raises(ControlError, match="trace_hooks") as refused:
        TraceReader(path)
    assert refused.value.code == ControlErrorCode.NO_TRACES


def test_every_kind_has_a_bit() -> None:
    assert trace_commands._kinds(None) == sum(1 << kind for kind in TraceKind if kind)
