# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The floors that the page on architecture shows are those that the linter holds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("contract", "heading"),
    [("floors of the user side", "| Floor |"), ("machine on driver on small kernel", "| Part |")],
)
def test_floors(contract: str, heading: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["name"] == contract)
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page[page.index(heading) :].split("\n\n", 1)[0].splitlines()[2:]
    shown = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table]
    assert shown == [layer.split(" | ") for layer in layers if layer != "__main__"]
