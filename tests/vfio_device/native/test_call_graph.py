# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Files of the device's C call only downwards: read off the symbols of the built objects."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
NATIVE: Final = ROOT / "vfio_device" / "native"
LIBRARIES: Final = {"libengine.a.p": NATIVE, "libaes.a.p": NATIVE, "keystore/libkeystore.a.p": NATIVE / "keystore"}
"""Folders of objects below build/native, and the folder their names are relative to."""
TEST_BUILDS_ONLY: Final = {"seam"}
ALLOWED_CIRCLE: Final = {"keystore/bulk", "keystore/handles"}
"""Destroying a key withdraws it from the fast path; publishing one looks it up."""

Graph = dict[str, set[str]]


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
