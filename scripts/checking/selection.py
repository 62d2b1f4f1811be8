# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which tests belong to a file: those at the same path below `tests`.

`userspace/ihsm/bus/arena.py` is tested by `tests/userspace/bus/test_arena.py`. A file without a test of its own is
tested with its folder: by `tests/userspace/test_bus.py` if there is one, or by all tests in `tests/userspace/bus`. If
there are none either, the same is tried for the folder above.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

TREES: Final = {
    "abi/ihsm_abi": ("tests/abi",),
    "vfio_device/ihsm_device": ("tests/vfio_device",),
    "vfio_device/native/keystore": ("tests/vfio_device/hsm/keystore",),
    "vfio_device/native/fastpath": ("tests/vfio_device/fastpath",),
    "vfio_device/native": ("tests/vfio_device/engine", "tests/vfio_device/native"),
    "userspace/ihsm": ("tests/userspace",),
    "userspace/native/bench": ("tests/userspace/bench",),
    "userspace/native": ("tests/userspace/driver",),
    "scripts": ("tests/scripts",),
    "requirements": ("tests/scripts",),
    "docs": ("tests/docs",),
}
"""Folders of sources, the deepest first, and where their tests begin: first where files without own tests have some."""
ROOT_FILES: Final = {"pyproject.toml": "tests/scripts/test_lock.py"}
"""Tests of files at the root; pages there are tested as those in `docs`."""


class Tests(NamedTuple):
    """Test files of some file."""

    own: list[str]
    """Those made for it: they always run."""
    neighbours: list[str]
    """Those that use it among others: they run as far as time allows."""


def tests_of(root: Path, name: str) -> Tests:
    """Test files that belong to the file `name` (a path from `root`)."""
    path = PurePosixPath(name)
    if name in ROOT_FILES:
        return Tests([ROOT_FILES[name]], [])
    if len(path.parts) == 1 and path.suffix == ".md":
        return Tests([], _in_folder(root, PurePosixPath("tests/docs")))
    if path.parts[0] == "tests":
        return _of_test_code(root, path)
    for tree, folders in TREES.items():
        if path.is_relative_to(tree):
            below = path.relative_to(tree)
            for folder in folders:
                if own := _test_named(root, PurePosixPath(folder) / below.parent, below.name):
                    return Tests(own, [])
            return Tests([], _of_nearest_folder(root, below.parent, PurePosixPath(folders[0])))
    return Tests([], [])


def tests_of_all(root: Path, names: Sequence[str]) -> Tests:
    """Test files of several files, each once."""
    found = [tests_of(root, name) for name in names]
    own = sorted({test for tests in found for test in tests.own})
    return Tests(own, sorted({test for tests in found for test in tests.neighbours} - {*own}))


def _of_nearest_folder(root: Path, folder: PurePosixPath, tests: PurePosixPath) -> list[str]:
    """Tests of a folder of sources: the test that has its name, or those in it, or those of the folder above."""
    while folder.name:
        if found := _test_named(root, tests / folder.parent, folder.name) or _in_folder(root, tests / folder):
            return found
        folder = folder.parent
    return _in_folder(root, tests)


def _test_named(root: Path, folder: PurePosixPath, name: str) -> list[str]:
    """The test in `folder` of a file or folder called `name`, if there is one."""
    words = name.partition(".")[0].replace("-", "_").strip("_")
    test = folder / f"test_{words}.py"
    return [str(test)] if (root / test).is_file() else []


def _of_test_code(root: Path, path: PurePosixPath) -> Tests:
    """A test file is its own test; a conftest.py serves its folder; other modules serve those that import them."""
    if path.name.startswith("test_") and path.suffix == ".py":
        return Tests([str(path)], [])
    if path.name == "conftest.py":
        below = (root / path.parent).rglob("test_*.py")
        return Tests([], sorted(str(test.relative_to(root)) for test in below))
    if path.suffix != ".py":
        return Tests([], [])
    modules = {path.relative_to("tests").with_suffix("")}
    seen: set[PurePosixPath] = set()
    found = set()
    while modules:
        seen |= modules
        importers = {importer for module in modules for importer in _importers(root, module)}
        found |= {f"tests/{importer}.py" for importer in importers if importer.name.startswith("test_")}
        modules = importers - seen
    return Tests([], sorted(found))


def _importers(root: Path, module: PurePosixPath) -> Iterator[PurePosixPath]:
    """Modules below `tests` that import `module`, all as paths from there without suffix."""
    package, name = ".".join(module.parts[:-1]), module.name
    wanted = re.compile(
        rf"^\s*(from|import) {re.escape('.'.join(module.parts))}\b|^\s*from {re.escape(package)} import .*\b{name}\b",
        re.MULTILINE,
    )
    for file in (root / "tests").rglob("*.py"):
        if wanted.search(file.read_text()):
            yield PurePosixPath(file.relative_to(root / "tests").with_suffix(""))


def _in_folder(root: Path, folder: PurePosixPath) -> list[str]:
    return sorted(str(test.relative_to(root)) for test in (root / folder).glob("test_*.py"))
