# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which tests belong to a file: those at the same path below `tests`.

`userspace/ihsm/bus/arena.py` is tested by `tests/userspace/bus/test_arena.py`. A file without a test of its own is
tested with its folder: by `tests/userspace/test_bus.py` if there is one, or by all tests in `tests/userspace/bus`. If
there are none either, the same is tried for the folder above. C is tested with its folder in any case. Besides, mutants
of a file name tests that notice when it is broken.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from mutation.patches import Mutant, missing_tests

DEVICE_C: Final = "vfio_device/native"
TREES: Final = {
    "abi/ihsm_abi": ("tests/abi",),
    "vfio_device/ihsm_device": ("tests/vfio_device",),
    f"{DEVICE_C}/keystore": ("tests/vfio_device/hsm/keystore",),
    f"{DEVICE_C}/fastpath": ("tests/vfio_device/fastpath", "tests/vfio_device/seams"),
    f"{DEVICE_C}/crypto": ("tests/vfio_device/fastpath", "tests/vfio_device/hsm/keystore"),
    DEVICE_C: ("tests/vfio_device/engine", "tests/vfio_device/seams", "tests/vfio_device/native"),
    "userspace/ihsm": ("tests/userspace",),
    "kmod_sim/ihsm_kmod/host": ("tests/kmod_host",),
    "kmod_sim/ihsm_kmod": ("tests/kmod_sim",),
    "kmod_sim/native": ("tests/kmod_host",),
    "userspace/native/bench": ("tests/userspace/bench",),
    "userspace/native": ("tests/userspace/driver",),
    "scripts": ("tests/scripts",),
    "docs": ("tests/docs",),
}
"""Folders of sources, the deepest first, and where their tests begin."""
DRIVER_PAGE: Final = "tests/docs/test_kernel_driver_page.py"
"""Own test of the page about the driver model, which quotes that."""
LABORATORY_PAGE: Final = "tests/docs/test_laboratory_page.py"
"""Likewise of the page for those who write guest drivers."""
NAMED: Final = {
    "pyproject.toml": "tests/scripts/test_lock.py",
    "requirements/*": "tests/scripts/test_lock.py",
    "*.md": "tests/docs/test_pages.py",
    "docs/*.md": "tests/docs/test_pages.py",
    "docs/reference/*.md": "tests/docs/test_pages.py",
    "docs/api.md": "tests/docs/test_api_page.py",
    "docs/faults.md": "tests/docs/test_faults_page.py",
    "docs/kernel-driver.md": DRIVER_PAGE,
    "docs/examples/one_ioctl.py": DRIVER_PAGE,
    "docs/examples/hanging_driver.py": LABORATORY_PAGE,
    "docs/examples/*.py": "tests/docs/test_examples.py",
    "docs/examples/driver_tests/*": "tests/scripts/test_packaging.py",
    "docs/examples/driver_tests/module/*": "tests/guest/test_driver_tests.py",
    "docs/laboratory.md": LABORATORY_PAGE,
    "scripts/check": "tests/scripts/test_checking.py",
    "scripts/man-pages": "tests/scripts/test_man_pages.py",
    "docs/man/*.1": "tests/scripts/test_man_pages.py",
    "scripts/coverage": "tests/scripts/test_covering.py",
    "scripts/covering/*": "tests/scripts/test_covering.py",
    "scripts/fuzz": "tests/scripts/test_fuzzing.py",
    "scripts/fuzzing/*": "tests/scripts/test_fuzzing.py",
    "fuzz/*": "tests/scripts/test_fuzzing.py",
    "fuzz/native/*": "tests/scripts/test_fuzzing.py",
    "fuzz/python/*": "tests/scripts/test_fuzzing.py",
    "fuzz/corpus/*/*": "tests/scripts/test_fuzzing.py",
    "scripts/mutants": "tests/scripts/test_mutation.py",
    "scripts/name-stubs": "tests/structure/test_lazy_names.py",
    "scripts/name_stubs.py": "tests/structure/test_lazy_names.py",
    "scripts/reference": "tests/scripts/test_reference_pages.py",
    "scripts/setup": "tests/scripts/test_bootstrap.py",
    "scripts/test-libraries": "tests/scripts/test_library_tests.py",
    "docs/libraries.md": "tests/scripts/test_library_tests.py",
    "tests/libraries/*": "tests/scripts/test_library_tests.py",
    "tests/guest/modules/devinfo/*": "tests/conformance/test_linux.py",
    "tests/programs/*": "tests/kmod_host/test_programs.py",
    "tests/programs/static_user/*": "tests/kmod_host/test_programs.py",
    "tests/mutants/*.patch": "tests/scripts/test_mutation.py",
    f"{DEVICE_C}/ext_build.py": "tests/vfio_device/native/test_ext_stubs.py",
    f"{DEVICE_C}/hatch_build.py": "tests/scripts/test_packaging.py",
}
"""Own tests that have another name than the file; `*` stands for a name in a folder."""
CALL_GRAPH: Final = "tests/vfio_device/native/test_call_graph.py"
"""Own test of every C file of the device: any of them can call upwards."""
LIBRARY_TESTS: Final = "tests/libraries/"
"""Tests that need other people's libraries: `scripts/test-libraries` alone has these."""
ALSO: Final = {
    f"{DEVICE_C}/host.c": ("tests/vfio_device/test_msix.py",),
    "kmod_sim/ihsm_kmod/hsm/*.py": (DRIVER_PAGE,),
    "kmod_sim/ihsm_kmod/kernel/*.py": (DRIVER_PAGE,),
}
"""Neighbours that lie elsewhere; `*` as above."""


class Tests(NamedTuple):
    """Tests of some file: paths of test files; neighbours also node ids."""

    own: list[str]
    """Those made for it: they always run."""
    neighbours: list[str]
    """Those that use it among others: they run as far as time allows."""


def tests_of(root: Path, name: str, mutants: Sequence[Mutant]) -> Tests:
    """Tests that belong to the file `name` (a path from `root`), those that its mutants name in front."""
    own, neighbours = _by_path(root, PurePosixPath(name))
    return _each_once(own, [*_noticing(root, name, mutants), *neighbours])


def tests_of_all(root: Path, names: Sequence[str], mutants: Sequence[Mutant]) -> Tests:
    """Tests of several files, each once."""
    found = [tests_of(root, name, mutants) for name in names]
    return _each_once(
        [test for tests in found for test in tests.own], [test for tests in found for test in tests.neighbours]
    )


def _each_once(own: Sequence[str], neighbours: Sequence[str]) -> Tests:
    """The same without repetitions, and without single tests of files that run whole."""
    files = {*own, *neighbours}
    rest = [
        test for test in dict.fromkeys(neighbours) if test not in own and not ("::" in test and _file(test) in files)
    ]
    # pytest starts its workers at different places of the list; single tests in front are among the first to run.
    return Tests(sorted({*own}), sorted(rest, key=lambda test: ("::" not in test, test)))


def _file(test: str) -> str:
    return test.partition("::")[0]


def _noticing(root: Path, name: str, mutants: Sequence[Mutant]) -> Iterator[str]:
    """Tests that mutants of a file name, with all parameters: their names change too easily to ask for one."""
    for mutant in mutants:
        if name in mutant.files:
            missing = missing_tests(root, mutant)
            yield from (test.partition("[")[0] for test in mutant.tests if test not in missing)


def _by_path(root: Path, path: PurePosixPath) -> Tests:
    """Test files as the module's text says."""
    own = [test for pattern, test in NAMED.items() if _fits(path, pattern)]
    is_c = path.suffix in (".c", ".h")
    if is_c and path.is_relative_to(DEVICE_C):
        own.append(CALL_GRAPH)
    if path.parts[0] == "tests":
        return Tests(own, []) if own else _of_test_code(root, path)
    if path.suffix == ".md" and len(path.parts) == 1:
        return Tests(own, _in_folder(root, PurePosixPath("tests/docs")))
    neighbours = [test for pattern, tests in ALSO.items() if _fits(path, pattern) for test in tests]
    tree = next((tree for tree in TREES if path.is_relative_to(tree)), None)
    if tree is not None:
        below, folders = path.relative_to(tree), [PurePosixPath(folder) for folder in TREES[tree]]
        named = [test for folder in folders for test in _test_named(root, folder / below.parent, below.name)]
        # A script has nothing in common with the others.
        alone = tree == "scripts" and not below.parent.name
        if is_c or path.suffix == ".md" or not (named or own or alone):
            neighbours += [test for folder in folders for test in _of_nearest_folder(root, below.parent, folder)]
        own += named
    return Tests(own, neighbours)


def _fits(path: PurePosixPath, pattern: str) -> bool:
    """Whether a pattern means the path: `*` is not for several folders."""
    return path.match(pattern) and pattern.count("/") == len(path.parts) - 1


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
        return Tests([], _without_libraries(str(test.relative_to(root)) for test in below))
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
    return Tests([], _without_libraries(found))


def _without_libraries(tests: Iterable[str]) -> list[str]:
    return sorted(test for test in tests if not test.startswith(LIBRARY_TESTS))


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
