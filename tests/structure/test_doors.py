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
PACKAGE: Final = "ihsm_device.hsm"
ROOMS: Final = sorted(door.parent.name for door in HSM.glob("*/__init__.py"))


def imports(source: str, package: str = "") -> Iterator[tuple[str, list[str]]]:
    """What a module of a package imports, wherever it says so: a module, and names of it; none for all there are."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [alias.name for alias in node.names]
            # A room by its name alone is a module too.
            yield from ((f"{module}.{name}", []) for name in names if module == PACKAGE and name in ROOMS)
            yield module, [] if names == ["*"] else names


def through_the_door(room: str, source: str, package: str = "") -> set[str]:
    """Names that a module outside a room takes from its door; AssertionError if it enters by another way."""
    door, used = f"{PACKAGE}.{room}", set()
    for module, names in imports(source, package):
        assert not module.startswith(f"{door}."), f"goes through the wall to {module}"
        if module == door:
            assert names, f"takes all of {module}, where names can be looked up that its door does not hand out"
            used.update(names)
    return used


def handed_out(room: str) -> list[str]:
    """Names that a room's door lists."""
    for node in ast.parse((HSM / room / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_entered_through_its_door(room: str) -> None:
    used = set()
    for path in HSM.parent.rglob("*.py"):
        if not path.is_relative_to(HSM / room):
            package = ".".join(path.relative_to(HSM.parents[1]).parent.parts)
            used |= through_the_door(room, path.read_text(), package)
    assert used
    assert used <= set(handed_out(room))


@pytest.mark.parametrize(
    "written",
    [
        "import ihsm_device.hsm.keystore.store",
        "import ihsm_device.hsm.keystore.store as store",
        "import ihsm_device.hsm.keystore",
        "from ihsm_device.hsm.keystore.store import KeyStore",
        "from ihsm_device.hsm import keystore",
        "from ihsm_device.hsm.keystore import *",
        "from ..keystore.store import KeyStore",
        "from .. import keystore",
        "def later():\n    import ihsm_device.hsm.keystore.store",
    ],
)
def test_other_ways_in_are_seen(written: str) -> None:
    with pytest.raises(AssertionError):
        through_the_door("keystore", written, "ihsm_device.hsm.identity")


def test_the_door_is_open() -> None:
    for written in ("from ihsm_device.hsm.keystore import KeyStore", "from ..keystore import KeyStore"):
        assert through_the_door("keystore", written, "ihsm_device.hsm.identity") == {"KeyStore"}
    assert through_the_door("keystore", "from ihsm_device.hsm.wire import der") == set()


def test_the_rooms_are_found() -> None:
    assert {"keystore", "operations"} <= set(ROOMS)
