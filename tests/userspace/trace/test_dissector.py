# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Wireshark's view of a recording against ours: every record, every field, and what it marks as wrong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from bootstrap import tshark
from bootstrap.process import SetupError
from ihsm.embedded import EmbeddedDevice
from ihsm.trace import dissector
from ihsm.trace.decoding import entry_fields, header_fields
from ihsm.trace.pcapng import read_file, write_file
from ihsm.trace.records import (
    Completion,
    Doorbell,
    Entry,
    FaultHit,
    Lost,
    Mark,
    Message,
    Record,
    RegisterWrite,
    Request,
    Response,
    Start,
)
from ihsm_abi.admin import ADMIN_CQE, ADMIN_SQE, AdminOpcode, AdminStatus, Psf, QueueDw10
from ihsm_abi.ddi import API_REV, DdiOp, DdiStatus, HmacReq, ReqHdr, encode_error, encode_request
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register
from ihsm_abi.trace import DoorbellKind, LostWhere
from ihsm_abi.trace_lua import lua, render
from support.commands import run_process, uri
from support.trace_records import RECORDS
from support.trace_runs import recorded_by_command
from support.waiting import HANG_S


@pytest.fixture(scope="session")
def program() -> Path:
    try:
        return tshark.provide()
    except SetupError as error:
        pytest.skip(f"no tshark: {error}")


class Tshark:
    """The program with our dissector."""

    def __init__(self, program: Path, script: Path) -> None:
        self._command = [str(program), "-X", f"lua_script:{script}"]

    def lines(self, file: Path, *arguments: str) -> list[str]:
        done = subprocess.run(
            [*self._command, "-r", str(file), *arguments], capture_output=True, check=True, timeout=HANG_S
        )
        assert b"Lua" not in done.stderr, done.stderr
        return done.stdout.decode(errors="replace").split("\n")[:-1]

    def packets(self, file: Path) -> list[dict[str, Any]]:
        """Fields by full name of each packet, numbers and bytes as tshark writes them."""
        found: list[dict[str, Any]] = []
        for packet in json.loads("\n".join(self.lines(file, "-T", "json"))):
            fields: dict[str, Any] = {}
            for name, value in _leaves(packet["_source"]["layers"].get("ihsm", {})):
                assert name not in fields, f"{name} twice in a packet"
                fields[name] = value
            found.append(fields)
        return found

    def wrong(self, file: Path) -> list[str]:
        """Packets that are malformed, or that the script fails on."""
        return self.lines(file, "-Y", "_ws.malformed or _ws.lua.error or ihsm.short")


def _leaves(tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        elif name.startswith("ihsm."):
            yield name, value


@pytest.fixture
def wireshark(program: Path, tmp_path: Path) -> Tshark:
    script = tmp_path / "ihsm.lua"
    script.write_text(dissector.text())
    return Tshark(program, script)


def written(folder: Path, records: Sequence[Record]) -> Path:
    path = folder / "made.pcapng"
    with path.open("wb") as file:
        write_file(file, records)
    return path


def value_of(text: str, like: int | bytes) -> int | bytes:
    """What tshark wrote, as a value of ours."""
    if isinstance(like, bytes):
        return bytes.fromhex(text.replace(":", ""))
    return int(text, 0)


def test_a_run_field_by_field(wireshark: Tshark, tmp_path: Path) -> None:
    file = tmp_path / "run.pcapng"
    with EmbeddedDevice() as device:
        recorded_by_command(device, file, lambda: run_process("selftest", "--device", uri(device)))
    with file.open("rb") as opened:
        records = [packet.record for packet in read_file(opened)]
    assert len(records) > 1000
    packets = wireshark.packets(file)
    assert len(packets) == len(records)
    assert wireshark.wrong(file) == []
    assert wireshark.lines(file, "-Y", "ihsm.unknown_cid or ihsm.lost_records") == []
    compared = {Entry: 0, Completion: 0, Request: 0, Response: 0}
    for record, packet in zip(records, packets, strict=True):
        assert packet["ihsm.header.kind"] == str(int(record.kind))
        assert packet["ihsm.header.time_ns"] == str(record.time_ns)
        ours = entry_fields(record) | header_fields(record)
        for name, value in ours.items():
            assert value_of(packet[f"ihsm.{name}"], value) == value, name
        if isinstance(record, Entry | Completion):
            layout = next(iter(ours)).split(".")[0]
            assert {name for name in packet if name.startswith(f"ihsm.{layout}.")} == {f"ihsm.{name}" for name in ours}
        if ours:
            compared[type(record)] += 1  # type: ignore[index]
    assert all(count > 200 for count in compared.values()), compared
    failed = wireshark.lines(file, "-Y", "ihsm.ddi.error_status")
    assert len(failed) == sum(
        isinstance(record, Response) and header_fields(record).get("ddi.status", 0) != 0 for record in records
    )
    assert failed


def admin_entry(cid: int, opcode: AdminOpcode, dw10: int = 0, slot: int = 0) -> Entry:
    data = bytearray(ADMIN_SQE.itemsize)
    data[0], data[2:4], data[40:44] = opcode, cid.to_bytes(2, "little"), dw10.to_bytes(4, "little")
    return Entry(queue=0, slot=slot, data=bytes(data))


def completion(cid: int, queue: int = 0, status: int = 0, function: int = 0) -> Completion:
    data = bytearray(ADMIN_CQE.itemsize)
    data[12:14], data[14:16] = cid.to_bytes(2, "little"), Psf.of(phase=1, status=status).to_bytes(2, "little")
    return Completion(queue=queue, slot=0, vector=0, phase=1, data=bytes(data), function=function)


def marked(wireshark: Tshark, file: Path, name: str) -> list[int]:
    """Numbers of the packets that fit, with all that follows known."""
    return [int(line) for line in wireshark.lines(file, "-2", "-Y", name, "-T", "fields", "-e", "frame.number")]


START = Start(version=1, ready=0, software="1")


def test_what_is_marked(wireshark: Tshark, tmp_path: Path) -> None:
    disable = RegisterWrite(region=Bar.REGISTERS, offset=Register.CC, width=4, value=0)
    records = [
        START,
        admin_entry(5, AdminOpcode.IDENTIFY),
        completion(5),
        completion(5),  # 4: twice
        admin_entry(6, AdminOpcode.IDENTIFY),
        completion(6, status=AdminStatus.INVALID_FIELD),  # 6
        admin_entry(7, AdminOpcode.IDENTIFY),
        disable,
        completion(7),  # 9: after a disable
        completion(8, function=1),  # another function, of which the beginning is not known
        FaultHit(fault=3, queue=0, vector=None),  # 11
        Lost(count=4, where=LostWhere.RING),  # 12
        completion(9),  # its command may be among what is lost
    ]
    file = written(tmp_path, records)
    assert marked(wireshark, file, "ihsm.unknown_cid") == [4, 9]
    assert marked(wireshark, file, "ihsm.error_status") == [6]
    assert marked(wireshark, file, "ihsm.fault_hit") == [11]
    assert marked(wireshark, file, "ihsm.lost_records") == [12]
    assert marked(wireshark, file, "ihsm.entry_in == 2") == [3]
    assert marked(wireshark, file, "ihsm.completion_in == 6") == [5]
    assert wireshark.wrong(file) == []


def test_a_queue_that_was_there_before_is_trusted(wireshark: Tshark, tmp_path: Path) -> None:
    started_late = Start(version=1, ready=1, software="1")
    created = admin_entry(1, AdminOpcode.CREATE_SQ, QueueDw10.of(id=2, size=15))
    records = [started_late, completion(4, queue=1), created, completion(1), completion(4, queue=2)]
    file = written(tmp_path, records)
    assert marked(wireshark, file, "ihsm.unknown_cid") == [5]


def test_a_response_is_what_its_request_was(wireshark: Tshark, tmp_path: Path) -> None:
    request = encode_request(HmacReq(key_id=7, msg=b""))
    error = encode_error(DdiStatus.KeyNotFound, ReqHdr(rev=API_REV, op=DdiOp.Hmac))
    records = [
        START,
        Request(queue=1, cid=3, length=len(request), message=request),
        Response(queue=1, cid=3, length=len(error), message=error),
    ]
    file = written(tmp_path, records)
    assert marked(wireshark, file, "ihsm.ddi.hmac_req.key_id == 7") == [2]
    assert marked(wireshark, file, "ihsm.ddi.op == 1077") == [2, 3]
    named = 'ihsm.ddi.error_status and _ws.expert.message contains "KeyNotFound"'
    assert marked(wireshark, file, named) == [3]


def test_records_of_every_kind_and_value(wireshark: Tshark, tmp_path: Path) -> None:
    """What no device would send is shown, or said to be too short: the script never fails."""
    made: list[Record] = []

    @settings(max_examples=300, database=None, derandomize=True)
    @given(RECORDS)
    def make(record: Record) -> None:
        made.append(record)

    make()
    file = written(tmp_path, made)
    assert len(wireshark.lines(file)) == len(made)
    assert wireshark.lines(file, "-Y", "_ws.lua.error") == []
    packets = wireshark.packets(file)
    for record, packet in zip(made, packets, strict=True):
        assert packet["ihsm.header.kind"] == str(int(record.kind))
        if isinstance(record, Doorbell):
            assert int(packet["ihsm.doorbell.value"], 0) == record.value
            assert packet["ihsm.doorbell.which"] == str(int(DoorbellKind(record.which)))
        if isinstance(record, Mark) and record.text.isalnum():
            assert packet["ihsm.text"] == record.text
        if isinstance(record, Message):
            assert packet["ihsm.message.cid"] == str(record.cid)


def test_a_text_of_lines_is_shown_in_one(wireshark: Tshark, tmp_path: Path) -> None:
    file = written(tmp_path, [START, Mark(text="two\nlines\x1b[2J")])
    _, shown = wireshark.lines(file)
    assert "two\\x0alines\\x1b[2J" in shown


def test_the_script_is_made_from_the_declarations() -> None:
    assert dissector.text() == render()


def test_values_as_lua_writes_them() -> None:
    assert lua({"a": [1, True, 'say "\\"'], "b": None}) == '{["a"] = {1, true, "say \\"\\\\\\""}}'
    with pytest.raises(TypeError):
        lua(1.5)
