# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Files of the device's C call only downwards, as docs/architecture.md has them: read off the built objects."""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
NATIVE: Final = ROOT / "vfio_device" / "native"
LIBRARIES: Final = {"libengine.a.p": NATIVE, "libaes.a.p": NATIVE, "keystore/libkeystore.a.p": NATIVE / "keystore"}
"""Folders of objects below build/native, and the folder their names are relative to."""
TEST_BUILDS_ONLY: Final = {"seam"}
ALLOWED_CIRCLE: Final = {"keystore/bulk", "keystore/handles"}
"""Destroying a key withdraws it from the fast path; publishing one looks it up."""

Graph = dict[str, set[str]]
Floors = dict[str, tuple[int, int]]
"""Row of a file or of a folder (its name ends in a slash), and step within the row; both grow downwards."""


def built_objects() -> dict[str, Path]:
    """Object of each C file of the device, by the file's path below native/ without its ending."""
    found = {}
    for folder, base in LIBRARIES.items():
        for built in (ROOT / "build" / "native" / folder).glob("*.c.o"):
            source = base / built.name.removesuffix(".o").replace("_", "/", 1)
            if not source.exists():
                source = base / built.name.removesuffix(".o")
            found[str(source.relative_to(NATIVE).with_suffix(""))] = built
    return found


def symbols(built: Path) -> tuple[set[str], set[str]]:
    """What an object defines for others, and what it needs of others."""
    lines = subprocess.run(["nm", "-P", "-g", str(built)], check=True, capture_output=True, text=True).stdout
    kinds = [line.split()[:2] for line in lines.splitlines()]
    return {name for name, kind in kinds if kind != "U"}, {name for name, kind in kinds if kind == "U"}


def call_graph() -> Graph:
    """For each file, those it takes functions or data from."""
    files = {name: symbols(built) for name, built in built_objects().items()}
    home = {symbol: name for name, (defined, _) in files.items() for symbol in defined}
    return {
        name: {home[symbol] for symbol in needed if symbol in home and home[symbol] != name}
        for name, (_, needed) in files.items()
    }


def circle(graph: Graph) -> list[str] | None:
    """Files that reach themselves by a detour, the first again at the end; None if there are none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


def with_one_in_place_of(together: set[str], graph: Graph) -> Graph:
    """The graph with several files taken for one."""
    one = "+".join(sorted(together))
    merged: defaultdict[str, set[str]] = defaultdict(set)
    for name, targets in graph.items():
        merged[one if name in together else name] |= {one if target in together else target for target in targets}
    merged[one].discard(one)
    return dict(merged)


def floors(table: str) -> Floors:
    """The first column of a table: names in backticks, steps divided by "then", perhaps all in a "`folder/`:"."""
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")][2:]
    found: Floors = {}
    for number, row in enumerate(rows):
        folder = re.match(r"\s*`(\w+/)`:", row)
        names = row[folder.end() :] if folder else row
        for step, part in enumerate(re.split(r"\bthen\b", names)):
            for name in re.findall(r"`([^`]+)`", part):
                place = (folder[1] if folder else "") + name.removesuffix(".c")
                assert place not in found, f"{place} stands in the table twice"
                found[place] = (number, step)
    return found


def documented() -> Floors:
    """The table of docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    below = text.split("### The C below\n")[1]
    return floors(re.split(r"^#+ ", below, maxsplit=1, flags=re.MULTILINE)[0])


def place_of(name: str, places: Floors) -> str:
    """A file as the table has it: itself, or its folder."""
    return name if name in places else f"{name.partition('/')[0]}/"


def upward(graph: Graph, places: Floors) -> list[str]:
    """Calls that do not go down; those within a folder that the table has as a whole are its own affair."""
    found = []
    for caller, targets in sorted(graph.items()):
        for target in sorted(targets):
            above, below = place_of(caller, places), place_of(target, places)
            if above != below and places[above] >= places[below]:
                found.append(f"{caller} -> {target}")
    return found


def test_every_file_is_read() -> None:
    written = {str(path.relative_to(NATIVE).with_suffix("")) for path in NATIVE.rglob("*.c")}
    assert set(built_objects()) == written - TEST_BUILDS_ONLY


def test_there_are_calls() -> None:
    """The graph is not empty for want of symbols: some edges that must be there."""
    graph = call_graph()
    assert {"ring", "ready", "fastpath/fastpath"} <= graph["aes_ring"]
    assert "keystore/bulk" in graph["fastpath/fastpath"]


def test_a_circle_is_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}
    assert set(circle(graph) or ()) == {"a", "b", "c"}
    assert set(circle(with_one_in_place_of({"a", "b"}, graph)) or ()) == {"a+b", "c"}
    assert circle(with_one_in_place_of({"a", "b", "c"}, graph)) is None


def test_no_circle() -> None:
    assert circle(with_one_in_place_of(ALLOWED_CIRCLE, call_graph())) is None


def test_the_table_has_every_file_and_no_other() -> None:
    places = documented()
    assert {place_of(name, places) for name in built_objects()} == places.keys()


def test_calls_go_down_the_table() -> None:
    assert upward(call_graph(), documented()) == []


@pytest.mark.parametrize(
    ("caller", "target", "is_upward"),
    [
        ("top", "low/two", False),
        ("low/one", "low/two", False),
        ("low/two", "low/one", True),
        ("side", "top", True),
        ("low/three", "low/two", True),
        ("low/one", "top", True),
        ("keys/a", "keys/b", False),
        ("keys/a", "last", False),
        ("last", "keys/b", True),
        ("keys/a", "low/one", True),
    ],
)
def test_an_upward_call_is_seen(caller: str, target: str, is_upward: bool) -> None:
    """A call within one step is as wrong as one to a row above."""
    rows = (
        "| Files | Have |",
        "|---|---|",
        "| `top.c`, `side.c` | a `b.c` |",
        "| `low/`: `one.c`, then `two.c` and `three.c` | c |",
        "| `keys/`, then `last.c` | d |",
    )
    assert upward({caller: {target}}, floors("\n".join(rows))) == ([f"{caller} -> {target}"] if is_upward else [])
