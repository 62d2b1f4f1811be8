# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A room of the security module is entered through its door: what its `__init__.py` does not hand out is its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import ihsm_device.hsm

HSM: Final = Path(ihsm_device.hsm.__file__).parent
ROOMS: Final = sorted(door.parent.name for door in HSM.glob("*/__init__.py"))


def imports(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each `from MODULE import NAMES` of a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]


def handed_out(room: str) -> list[str]:
    """Names that a room's door lists."""
    for node in ast.parse((HSM / room / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_entered_through_its_door(room: str) -> None:
    door, used = f"ihsm_device.hsm.{room}", set()
    for path in HSM.parent.rglob("*.py"):
        if path.is_relative_to(HSM / room):
            continue
        for module, names in imports(path):
            assert not module.startswith(f"{door}."), f"{path} goes through the wall to {module}"
            if module == door:
                used.update(names)
    assert used
    assert used <= set(handed_out(room))


def test_the_rooms_are_found() -> None:
    assert {"keystore", "operations"} <= set(ROOMS)
