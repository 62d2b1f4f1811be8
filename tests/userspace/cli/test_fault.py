# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm fault` against a served device: what one command sets, the next ones see, and a test can wait for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.shell_completion import ShellComplete

from ihsm.bus import VfioUserFunction
from ihsm.cli import main
from ihsm.cli.completion import PROGRAM, VARIABLE
from ihsm.cli.fault import COMMON
from ihsm.control import ControlClient
from ihsm.embedded import EmbeddedDevice
from ihsm.uri import DEVICE_VARIABLE
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.fault_words import places
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register
from support.commands import refused, run, run_json, succeed, uri
from support.waiting import HANG_S, until


@pytest.fixture
def client(device: EmbeddedDevice) -> Iterator[ControlClient]:
    """A device that has no faults, before and after."""
    with ControlClient(device.socket_path, timeout_s=HANG_S) as client:
        yield client
        client.clear_faults()


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch, device: EmbeddedDevice, no_other_devices: None) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, uri(device))


def document(*arguments: str) -> Any:
    return run_json("fault", *arguments)


def added(*arguments: str) -> str:
    return str(document("add", *arguments)["id"])


def read_csts(device: EmbeddedDevice) -> int:
    with VfioUserFunction(device.socket_path, timeout_s=HANG_S) as function:
        return function.read_bar(Bar.REGISTERS, Register.CSTS, 4)


def test_a_fault_outlives_who_added_it_and_is_gone_when_cleared(device: EmbeddedDevice, client: ControlClient) -> None:
    number = added("all-ones", "--register", "CSTS", "--nth", "2", "--count", "1")
    assert client.faults()[0].number == int(number)
    assert [read_csts(device) for _ in range(3)] == [0, 0xFFFF_FFFF, 0]
    assert document("wait", number, "--timeout", "0") == {"id": int(number), "hits": 1}
    (entry,) = document("list")
    fault = {"action": "all-ones", "match": {"register": "CSTS"}, "when": {"nth": 2, "count": 1}}
    text = "all-ones register=CSTS nth=2 count=1"
    assert entry == {"id": int(number), "text": text, "fault": fault, "hits": 1, "left": 0}
    lasting = added("all-ones")
    assert read_csts(device) == 0xFFFF_FFFF
    assert document("clear", lasting) == {"cleared": 1}
    assert read_csts(device) == 0
    assert refused(1, "fault", "clear", lasting).endswith(f"there is no fault {lasting}")
    assert refused(1, "fault", "wait", lasting).endswith(f"there is no fault {lasting}")


def test_what_people_see(client: ControlClient) -> None:
    assert succeed("fault", "list") == b"no faults\n"
    line = succeed("fault", "add", "delay-completion", "--ms", "0x10", "--operation", "EccSign").decode()
    number, _, text = line.removeprefix("fault ").rstrip().partition(": ")
    assert text == "delay-completion operation=EccSign ms=16"
    other = added("wrong-cid", "--cid", "7", "--count", "3", "--operation", "1062")
    header, *rows = succeed("fault", "list").decode().splitlines()
    assert header.split() == ["ID", "FAULT", "HITS", "LEFT"]
    assert [row.split() for row in rows] == [
        [number, *text.split(), "0", "all"],
        [other, "wrong-cid", "operation=EccSign", "cid=7", "count=3", "0", "3"],
    ]
    assert succeed("fault", "clear", "--all") == b"2 cleared\n"
    assert succeed("fault", "clear", "--all") == b"0 cleared\n"


def test_status_shows_them(client: ControlClient) -> None:
    assert run_json("status")["faults"] == []
    number = added("hold-command", "--queue", "1", "--count", "2")
    (entry,) = run_json("status")["faults"]
    assert entry == {"id": int(number), "text": "hold-command queue=1 count=2", "hits": 0, "left": 2}
    (line,) = [line for line in succeed("status").decode().splitlines() if line.startswith("faults.")]
    assert line.split(maxsplit=1) == [f"faults.{number}", "hold-command queue=1 count=2; hits: 0, left: 2"]


def test_waiting(device: EmbeddedDevice, client: ControlClient) -> None:
    """Two wait, each a process of its own; meanwhile other commands are answered."""
    number = added("all-ones", "--register", "CSTS", "--count", "2")
    before = open_files(client)
    command = [sys.executable, "-m", "ihsm", "fault", "wait", number, "--timeout", str(HANG_S)]
    waiting = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    until(lambda: client.status()["open_files"] == before + 2, "two who wait")
    assert run_json("status")["pid"] == device.pid
    assert [process.poll() for process in waiting] == [None, None]
    assert read_csts(device) == 0xFFFF_FFFF
    for process in waiting:
        assert process.communicate(timeout=HANG_S)[0] == f"fault {number}: 1 hits\n"
        assert process.returncode == 0


def open_files(client: ControlClient) -> int:
    """Of the device, when it has closed the connections of those who went before: it needs some rounds for that."""
    return int([client.status()["open_files"] for _ in range(5)][-1])


def test_a_wait_that_is_over_says_so(client: ControlClient) -> None:
    number = added("all-ones")
    line = refused(124, "fault", "wait", number, "--hits", "2", "--timeout", "0")
    assert line == f"Error: fault {number}: 0 of 2 hits within 0 s"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("add", "dance"), "'dance' is not one of 'drop-completion'"),
        (("add", "drop-completion", "--vector", "1"), "--vector: drop-completion takes only queue, opcode"),
        (("add", "drop-completion", "--queue", "100"), "--queue: no queue can have the id 100"),
        (("add", "drop-completion", "--nth", "0"), "--nth: 0 is outside 1 to"),
        (("add", "drop-completion", "--nth", "two"), "'--nth': 'two' is no integer"),
        (("add", "drop-completion", "--operation", "Sing"), "--operation: 'Sing' is no operation"),
        (("add", "all-ones", "--register", "CST"), "--register: 'CST' is none of CAP"),
        (("add", "delay-completion"), "--ms: delay-completion needs it"),
        (("add", "fail-dma", "--part", "x"), "'--part': 'x' is not one of 'entry'"),
        (("add", "late-ready"), "late-ready needs reads or ms"),
        (("add", "drop-completion", "--per-mille", "1001"), "--per-mille: 1001 is outside 1 to 1000"),
        (("add", "wrong-cap-to", "--to", "1"), "No such option '--to'"),
        (("add", "wrong-cap-to"), "'wrong-cap-to' is not one of"),
        (("clear",), "give the faults to clear, or --all"),
        (("clear", "1", "--all"), "give the faults to clear, or --all"),
        (("clear", "0"), "number: 0, 1 to"),
        (("wait", "1", "--timeout", "nan"), "nan is no number"),
        (("wait", "one"), "'one' is not a valid integer"),
    ],
)
def test_wrong_usage_is_named(client: ControlClient, arguments: tuple[str, ...], text: str) -> None:
    assert text in refused(2, "fault", *arguments)
    assert client.faults() == []


def test_where_no_faults_can_be() -> None:
    for command in (["add", "all-ones"], ["list"], ["clear", "--all"], ["wait", "1"]):
        assert "has no control socket" in refused(3, "fault", *command, "--device", "pci:00:04.0")
        assert "No such file" in refused(3, "fault", *command, "--device", "vfio-user:/none.sock")


def test_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE_VARIABLE)
    assert refused(3, "fault", "list") == "Error: no device found"


def completed(*words: str) -> list[str]:
    """What may follow, or complete the last word."""
    complete = ShellComplete(main, {}, PROGRAM, VARIABLE)
    return [item.value for item in complete.get_completions(["fault", *words[:-1]], words[-1])]


def test_numbers_are_completed(client: ControlClient) -> None:
    numbers = [added("hold-command", "--queue", "1") for _ in range(2)]
    for command in ("clear", "wait"):
        assert completed(command, "") == numbers
        assert completed(command, numbers[1]) == numbers[1:]
    assert completed("wait", "--device", "vfio-user:/none.sock", "") == []


def test_names_are_completed() -> None:
    assert completed("add", "drop") == ["drop-completion"]
    assert completed("add", "drop-completion", "--operation", "EccS") == ["EccSign"]
    assert completed("add", "all-ones", "--register", "CS") == ["CSTS"]
    assert completed("add", "fail-dma", "--part", "d") == ["destination"]
    assert completed("add", "drop-completion", "--queue", "") == []


def test_every_value_has_its_option() -> None:
    command = main.get_command(click.Context(main), "fault")
    assert isinstance(command, click.Group)
    options = {parameter.name for parameter in command.commands["add"].params} - {"action", "device", "as_json"}
    assert options == {name for spec in ACTIONS.values() if not spec.at_start_only for name in places(spec)}
    assert options > COMMON.keys()


def test_actions_are_listed() -> None:
    found = document("actions")
    assert [entry["action"] for entry in found] == list(ACTIONS)
    (part,) = next(entry for entry in found if entry["action"] == "fail-dma")["parameters"]
    assert part["choices"] == ["entry", "source", "destination", "list"]
    table = run("fault", "actions").output.splitlines()
    assert len(table) == 1 + len(ACTIONS)
    assert table[0].split() == ["ACTION", "POINT", "OPTIONS", "MEANING"]
    assert all(entry["driver"] and entry["spec"] for entry in found)
    (start,) = [line for line in table if line.startswith("wrong-bar-size")]
    assert start.split()[1:4] == ["start", "bar", "size"]


def test_a_command_that_must_not_be_seen(device: EmbeddedDevice, client: ControlClient) -> None:
    """Whoever waits for anything fails at once, and so does the end of it."""
    never, other = added("never", "--queue", "0", "--opcode", "6"), added("all-ones", "--register", "FWCAP")
    assert succeed("fault", "wait", never, "--timeout", "0") == f"fault {never}: 0 hits\n".encode()
    command = [sys.executable, "-m", "ihsm", "fault", "wait", other, "--timeout", str(HANG_S)]
    before = open_files(client)
    waits = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until(lambda: client.status()["open_files"] == before + 1, "one who waits")
    succeed("info")
    text = f"fault {never}, never queue=0 opcode=6: such a command came, 1 hits"
    assert waits.communicate(timeout=HANG_S)[1] == f"Error: {text}\n"
    assert waits.returncode == 1
    assert refused(1, "fault", "wait", never) == f"Error: {text}"
    assert refused(1, "fault", "clear", never, other) == f"Error: {text}"
    assert client.faults() == [], "all were cleared"
    never = added("never", "--queue", "0")
    succeed("info")
    assert "such a command came" in refused(1, "fault", "clear", "--all")
    assert succeed("fault", "clear", "--all") == b"0 cleared\n"


def test_by_chance(client: ControlClient) -> None:
    number = added("all-ones", "--register", "FWCAP", "--per-mille", "250", "--seed", "9")
    (entry,) = document("list")
    assert entry["text"] == "all-ones register=FWCAP per_mille=250 seed=9"
    assert document("clear", number) == {"cleared": 1}
