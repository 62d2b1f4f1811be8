# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of simulator and firmware in docs/hsm.md say what the profiles and the table of conditions say."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm_abi.ddi import DdiStatus
from ihsm_device.hsm.profile import DEFAULT

ROOT: Final = Path(__file__).parents[2]
CONDITIONS: Final = json.loads((ROOT / "tests/data/ddi-conditions.json").read_text())
CHOICES: Final = {
    "InitBk3": "init_bk3_repeatable",
    "POTA key_kind ≠ 23": "pota_key_kind_checked",
    "unwrapping key ready": "unwrapping_key_may_be_pending",
    "`bulk_key_id` and fast-path key numbers": "bulk_numbers",
    "HKDF without salt; KBKDF": "kbkdf_direct",
    "AttestKey: short report data": "short_report_data_padded",
}
"""Points of the conditions that a profile chooses, by the name of the choice."""
RENAMED: Final = {
    "UnmaskKey of it; other use of internal keys": "UnmaskKey of the unwrapping key; other use of internal keys",
}
"""Points that the page puts otherwise."""


def table(heading: str) -> list[list[str]]:
    """Cells of the rows of the page's table whose first line starts with `heading`."""
    text = (ROOT / "docs/hsm.md").read_text()
    body = re.search(rf"^\| {re.escape(heading)}.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert body is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body[1].splitlines()]


def conditions(part: Any = None) -> Iterator[dict[str, Any]]:
    """Every condition that a point decides, wherever it stands in the file."""
    part = {key: value for key, value in CONDITIONS.items() if key != "about"} if part is None else part
    if isinstance(part, list):
        for entry in part:
            yield from conditions(entry)
    elif "profile_row" in part:
        yield part
    elif isinstance(part, dict) and "id" not in part:
        for entry in part.values():
            yield from conditions(entry)


def point_of(condition: dict[str, Any]) -> str:
    """The point that decides a condition, in the page's words."""
    point: str = condition["profile_row"]
    return RENAMED.get(point, point)


def statuses(text: str | None) -> set[str]:
    """Names of statuses in a cell, or in a field of a condition."""
    return set(re.findall(r"\b[A-Z]\w+", text or "")) & DdiStatus.__members__.keys() - {"Success"}


FIXED: Final = {point: (simulator, here) for point, simulator, here in table("Point")}


def test_every_choice_has_its_row() -> None:
    rows = [name.strip("`") for name, *_ in table("Row")]
    assert ["name", *rows] == [field.name for field in dataclasses.fields(DEFAULT)]
    assert set(CHOICES.values()) <= set(rows)


def test_every_point_of_the_conditions_has_its_row() -> None:
    points = {point_of(entry) for entry in conditions()}
    assert points - CHOICES.keys() <= FIXED.keys()
    assert CHOICES.keys() <= points


@pytest.mark.parametrize("point", FIXED)
def test_a_row_names_the_statuses_of_its_conditions(point: str) -> None:
    """All of those that the device answers with; of the simulator's none that it does not have."""
    simulator, here = FIXED[point]
    found = [entry for entry in conditions() if point_of(entry) == point]
    if found:
        assert statuses(here) == set().union(*(statuses(entry.get("status")) for entry in found))
        assert statuses(simulator) <= set().union(*(statuses(entry.get("sim")) for entry in found))


@pytest.mark.parametrize("point", CHOICES)
def test_a_choice_names_the_statuses_of_the_firmware(point: str) -> None:
    row = next(row for row in table("Row") if row[0] == f"`{CHOICES[point]}`")
    found = [entry for entry in conditions() if point_of(entry) == point]
    assert statuses(row[2]) <= set().union(*(statuses(entry.get("fw")) for entry in found))
