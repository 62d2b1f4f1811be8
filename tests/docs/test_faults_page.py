# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""docs/faults.md says what the declarations say, and what it shows happens."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

import fault_tables
from ihsm import Hsm
from ihsm.api import EcPrivateKey
from ihsm.embedded import EmbeddedDevice
from ihsm.testing import DeviceFaults
from ihsm_abi import fault_file
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.faults import Fault, Match, When
from support.commands import run, uri

PAGE: Final = (Path(__file__).parents[2] / "docs/faults.md").read_text()


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the table in the section of that heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [row.split(" | ") for row in rows[1:]]


def test_its_tables_are_those_of_the_declarations() -> None:
    assert fault_tables.written(PAGE) == PAGE


def test_every_action_has_its_row() -> None:
    """Whatever writes them."""
    names = [row[0] for heading in ("Actions", "From the start") for row in table(heading)]
    assert {*names} >= {f"`{action}`" for action in ACTIONS}
    for spec in ACTIONS.values():
        (line,) = re.findall(rf"^\| `{spec.action}` \|.*$", PAGE, re.MULTILINE)
        assert all(text in line for text in (spec.meaning, spec.driver, spec.spec))
        assert all(f"`{name}`" in line for name in (*spec.matches, *(each.name for each in spec.parameters)))


@pytest.mark.parametrize(("heading", "kind"), [("Which events", Match), ("When", When)])
def test_every_value_has_its_row(heading: str, kind: type[Match | When]) -> None:
    assert [name for name, _ in table(heading)] == [f"`{field.name}`" for field in dataclasses.fields(kind)]


def test_the_objects_it_shows_are_faults() -> None:
    of_the_start, text = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert Fault.from_json(json.loads(text)).to_json() == json.loads(text)
    assert [fault.to_json() for fault in fault_file.parse(of_the_start)] == json.loads(of_the_start)


def test_a_device_begins_with_the_file_it_shows(tmp_path: Path) -> None:
    text = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0]
    file = tmp_path / "faults.json"
    file.write_text(text)
    with EmbeddedDevice(["--faults", str(file)]) as device, DeviceFaults(device) as faults:
        assert [standing.fault.to_json() for standing in faults.standing()] == json.loads(text)


def test_a_command_that_must_not_be_seen(device: EmbeddedDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IHSM_DEVICE", uri(device))
    section = PAGE.partition("\n## A command that must not be seen\n")[2]
    add, wait = re.findall(r"^\$ ihsm (.*?)(?:\s+#.*)?$", section.partition("\n## ")[0], re.MULTILINE)
    shown = re.findall(r"^fault (\d+): (.*)$", section, re.MULTILINE)[0]
    for _ in range(int(shown[0]) - 1):
        run("fault", "add", "hold-command")
    assert run(*add.split()).output == f"fault {shown[0]}: {shown[1]}\n"
    done = run(*wait.replace("--timeout 10", "--timeout 0").split())
    assert (done.exit_code, done.output) == (0, f"fault {shown[0]}: 0 hits\n")


@pytest.fixture
def device() -> Iterator[EmbeddedDevice]:
    with EmbeddedDevice() as device:
        yield device


def test_what_it_shows_in_the_shell_happens(
    device: EmbeddedDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IHSM_DEVICE", uri(device))
    block = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)[0]
    shown = re.findall(r"^\$ ihsm (.*?)(?:\s+#.*)?\n(.*)\n", block, re.MULTILINE)
    assert len(shown) == 3
    for line, answer in shown:
        done = run(*line.split())
        assert (done.exit_code, done.output) == (0, f"{answer}\n")
        if " add " in line:
            use(device, tmp_path)


def use(device: EmbeddedDevice, folder: Path) -> None:
    """Have a signature made, by whoever has the device."""
    with Hsm.create(root=folder, device=uri(device)) as hsm:
        key = hsm.generate("web", "p256", usage="sign")
        assert isinstance(key, EcPrivateKey)
        key.sign(b"message", ec.ECDSA(hashes.SHA256()))
