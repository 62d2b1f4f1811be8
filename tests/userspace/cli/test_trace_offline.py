# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm trace check`, `rules` and `diff`, and `ihsm replay`: recordings in files, of either form, and what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ihsm.embedded import EmbeddedDevice
from ihsm.trace.pcapng import write_file
from ihsm.trace.records import Lost, Record
from ihsm.trace.rules import RULES
from ihsm.uri import DEVICE_VARIABLE
from ihsm_abi.trace import DoorbellKind, LostWhere
from support.commands import refused, run, run_json, succeed, uri
from support.trace_life import HSM, Life, good_life
from support.traces import BINDS, COMMANDS, load


def written(path: Path, records: list[Record]) -> Path:
    with path.open("wb") as file:
        write_file(file, records)
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """The recording of a driver that breaks no rule."""
    return written(tmp_path / "good.pcapng", good_life().records)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """One that rings a doorbell of a queue that there is not."""
    life = Life()
    life.bring_up()
    life.doorbell(2, DoorbellKind.SQ_TAIL, 1)
    return written(tmp_path / "bad.pcapng", life.records)


@pytest.fixture
def cut(good: Path, tmp_path: Path) -> Path:
    """One that was ended in the middle of a record."""
    path = tmp_path / "cut.pcapng"
    path.write_bytes(good.read_bytes()[:-6])
    return path


@pytest.fixture
def junk(tmp_path: Path) -> Path:
    path = tmp_path / "junk"
    path.write_text('{"op": "read"}\n')
    return path


def document(path: Path, status: int, *options: str) -> Any:
    result = run("trace", "check", path, "--json", *options)
    assert result.exit_code == status, result.output
    return json.loads(result.stdout)


def test_no_breach(good: Path) -> None:
    assert succeed("trace", "check", good).decode() == "358 records, 0 breaches of 0 rules\n"
    assert document(good, 0) == {"records": 358, "breaches": [], "undecided": []}


def test_a_breach_is_told_with_its_records(bad: Path) -> None:
    result = run("trace", "check", bad)
    assert result.exit_code == 1
    first, *_, doorbell, last = result.stdout.splitlines()
    assert first.startswith("doorbell-queue (01 §3, §8.3): tail of queue 2 := 1:")
    assert "doorbell" in doorbell
    assert "queue=2" in doorbell
    assert last.endswith("1 breaches of 1 rules")


def test_a_breach_as_json(bad: Path) -> None:
    (breach,) = document(bad, 1)["breaches"]
    assert (breach["rule"], breach["section"], breach["function"]) == ("doorbell-queue", "01 §3, §8.3", 0)
    assert breach["records"][-1]["kind"] == "DOORBELL"
    assert breach["records"][-1]["number"] == document(bad, 1)["records"]


def test_the_same_file_has_the_same_verdict(bad: Path) -> None:
    assert run("trace", "check", bad).stdout == run("trace", "check", bad).stdout


def test_lines_of_a_recording(tmp_path: Path) -> None:
    result = run("trace", "check", COMMANDS)
    assert result.exit_code == 1
    assert result.stdout.count("reset-noticed (01 §8.6)") == 2
    assert "not decided, for the records have no times: head-moves" in result.stdout
    assert run("trace", "check", BINDS).exit_code == 0


def test_a_recording_from_standard_input(bad: Path) -> None:
    assert run("trace", "check", "-", stdin=bad.read_bytes()).exit_code == 1


def test_what_was_lost_is_told(tmp_path: Path) -> None:
    life = Life()
    life.bring_up()
    life.add(Lost(count=7, where=LostWhere.RING))
    found = document(written(tmp_path / "lost.pcapng", life.records), 0)["undecided"]
    assert {"rule": "cid-unique", "reason": "records were lost", "record": len(life.records)} in found


def test_limits(tmp_path: Path) -> None:
    life = Life()
    life.bring_up()
    life.submit(HSM, src_len=0, dst_len=0)
    life.elapse(12)
    life.look(ready=1)
    path = written(tmp_path / "slow.pcapng", life.records)
    assert run("trace", "check", path).exit_code == 1
    assert run("trace", "check", path, "--answer-limit", "30").exit_code == 0


@pytest.mark.parametrize("command", [["trace", "check"], ["replay"]], ids=" ".join)
def test_what_is_no_recording_is_wrong_usage(command: list[str], junk: Path, tmp_path: Path) -> None:
    assert "line 1: bar: None is no number" in refused(2, *command, junk)
    empty = tmp_path / "empty"
    empty.touch()
    assert "an empty file" in refused(2, *command, empty)
    assert "does not exist" in refused(2, *command, tmp_path / "none")


def test_a_file_without_its_end_is_judged_and_told(cut: Path, bad: Path, tmp_path: Path) -> None:
    result = run("trace", "check", cut)
    assert result.exit_code == 2
    assert "the file ends within a block; 357 records before it are whole" in result.stderr
    assert "0 breaches" in result.stdout
    worse = tmp_path / "worse.pcapng"
    worse.write_bytes(bad.read_bytes() + bad.read_bytes()[:20])
    assert run("trace", "check", worse).exit_code == 1
    assert run("trace", "diff", cut, cut).exit_code == 2


def test_all_rules_are_listed() -> None:
    listed = run_json("trace", "rules")
    assert [(one["name"], one["section"], one["sentence"]) for one in listed] == [
        (rule.name, rule.section, rule.sentence) for rule in RULES
    ]
    assert len(succeed("trace", "rules").splitlines()) == len(RULES) + 1


def test_no_difference(good: Path) -> None:
    assert succeed("trace", "diff", good, good) == b""
    assert run_json("trace", "diff", COMMANDS, COMMANDS) == []


def test_differences(tmp_path: Path) -> None:
    events = load(COMMANDS)
    events[5]["size"] = 8
    events[6], events[7] = events[7], events[6]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(event) + "\n" for event in events))
    result = run("trace", "diff", COMMANDS, other)
    assert result.exit_code == 1
    assert result.stdout.count("changed (after 'bind')") == 1
    assert "    width: 0x4 in A, 0x8 in B" in result.stdout.splitlines()
    assert result.stdout.count("moved (after 'bind')") == 1
    as_json = run("trace", "diff", COMMANDS, other, "--json")
    assert as_json.exit_code == 1
    changed, moved = json.loads(as_json.stdout)
    assert changed == {"kind": "changed", "a": 6, "b": 6, "values": [{"name": "width", "a": 4, "b": 8}]}
    assert moved["kind"] == "moved"


def test_a_file_that_cannot_be_compared(junk: Path, good: Path) -> None:
    assert "B" in refused(2, "trace", "diff", good, junk)


@pytest.mark.parametrize(("trace", "commands"), [(BINDS, 40), (COMMANDS, 125)], ids=["binds", "commands"])
def test_a_recorded_driver_is_played_to_a_private_device(
    trace: Path, commands: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)
    played = run_json("replay", trace)
    assert played["commands"] == commands
    # The recorded device said that it had failed, and once that it was another.
    assert {one["register"] for one in played["reads"]} <= {"CAP", "VS", "CSTS"}


def test_a_recording_is_played_to_a_device_that_is_named(device: EmbeddedDevice) -> None:
    """The AES commands of the recording named keys that this device has not."""
    text = succeed("replay", COMMANDS, "--device", uri(device)).decode()
    assert text.splitlines()[-1].startswith("877 records played, 125 commands answered,")
    assert run_json("replay", COMMANDS, "--device", uri(device))["commands"] == 125, "and once more"


def test_a_life_is_played(good: Path, device: EmbeddedDevice) -> None:
    """Made up, with commands that no device would answer so: they are answered all the same."""
    assert run_json("replay", good, "--device", uri(device))["commands"] > 40


def test_what_cannot_be_played(tmp_path: Path, device: EmbeddedDevice) -> None:
    life = Life()
    life.bring_up()
    life.add(Lost(count=7, where=LostWhere.RING))
    path = written(tmp_path / "lost.pcapng", life.records)
    assert "7 records are missing" in refused(1, "replay", path, "--device", uri(device))
    assert "--function" in refused(2, "replay", path, "--device", uri(device), "--function", "3")
    assert "a served function" in refused(3, "replay", path, "--device", "pci:0000:00:04.0")


def test_a_device_that_does_not_answer(device: EmbeddedDevice) -> None:
    from ihsm.testing import DeviceFaults

    with DeviceFaults(device) as faults:
        faults.add("drop-completion", queue=1, count=1)
        line = refused(1, "replay", COMMANDS, "--device", uri(device), "--timeout", "0.2")
    assert "queue 1: no answer within 0.2 s" in line
