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

from ihsm import Hsm
from ihsm.api import EcPrivateKey
from ihsm.embedded import EmbeddedDevice
from ihsm_abi.fault_actions import ActionSpec, Parameter
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.faults import Fault, Match, When
from support.commands import run, uri

PAGE: Final = (Path(__file__).parents[2] / "docs/faults.md").read_text()


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the table in the section of that heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [row.split(" | ") for row in rows[1:]]


def cell(parameter: Parameter) -> str:
    """A parameter as the page has it."""
    choices = " or ".join(f"`{choice}`" for choice in parameter.choices)
    limits = choices or f"{parameter.minimum} to {parameter.maximum}"
    optional = "" if parameter.required else ", may be left out"
    return f"`{parameter.name}` ({limits}{optional}): {parameter.meaning}"


def row(spec: ActionSpec) -> list[str]:
    """An action as the page has it."""
    matches = ", ".join(f"`{name}`" for name in spec.matches)
    parameters = "; ".join(map(cell, spec.parameters))
    return [f"`{spec.action}`", spec.meaning, matches or "–", parameters or "–", spec.spec]


def test_every_action_has_its_row() -> None:
    assert table("Actions") == [row(spec) for spec in ACTIONS.values()]


@pytest.mark.parametrize(("heading", "kind"), [("Which events", Match), ("When", When)])
def test_every_value_has_its_row(heading: str, kind: type[Match | When]) -> None:
    assert [name for name, _ in table(heading)] == [f"`{field.name}`" for field in dataclasses.fields(kind)]


def test_the_object_it_shows_is_a_fault() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert Fault.from_json(json.loads(text)).to_json() == json.loads(text)


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
