# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/check`: which files are touched, which tests belong to them, and what happens when something fails."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from checking import __main__ as program
from checking import checks, selection, touched
from checking.budget import Tally
from mutation.patches import load

ROOT = Path(__file__).parents[2]
TREE = (
    "tests/abi/test_mbor.py",
    "tests/docs/test_floors.py",
    "tests/docs/test_pages.py",
    "tests/kmod_sim/hsm/test_queue.py",
    "tests/kmod_sim/kernel/test_dma.py",
    "tests/scripts/test_bootstrap.py",
    "tests/scripts/test_check_licences.py",
    "tests/support/rig.py",
    "tests/support/unused.py",
    "tests/userspace/bus/conftest.py",
    "tests/vfio_device/engine/test_rings.py",
    "tests/vfio_device/fastpath/test_gcm.py",
    "tests/vfio_device/hsm/keystore/test_bulk.py",
    "tests/vfio_device/hsm/keystore/test_handles.py",
    "tests/vfio_device/native/test_ext_stubs.py",
    "tests/vfio_device/seams/test_host.py",
    "tests/vfio_device/seams/test_stack.py",
    "tests/userspace/bus/test_arena.py",
    "tests/userspace/bus/test_other.py",
    "tests/userspace/test_uri.py",
)
CALL_GRAPH = "tests/vfio_device/native/test_call_graph.py"
EXT_STUBS = "tests/vfio_device/native/test_ext_stubs.py"
RINGS = "tests/vfio_device/engine/test_rings.py"
SEAMS = ["tests/vfio_device/seams/test_host.py", "tests/vfio_device/seams/test_stack.py"]
KEYSTORE = ["tests/vfio_device/hsm/keystore/test_bulk.py", "tests/vfio_device/hsm/keystore/test_handles.py"]
DRIVER_PAGE = "tests/docs/test_kernel_driver_page.py"
PAGES = (["tests/docs/test_pages.py"], ["tests/docs/test_floors.py"])
MUTANT = """Mutant: Arenas are too small.
Noticed-by: tests/userspace/bus/test_other.py::test_it[a-b] tests/abi/test_mbor.py::test_size
    tests/userspace/bus/test_arena.py::test_size tests/userspace/bus/test_other.py::test_that_is_gone

diff --git a/userspace/ihsm/bus/arena.py b/userspace/ihsm/bus/arena.py
"""
KINDS = """
import pytest

def test_good(): pass
def test_bad(): assert False
@pytest.mark.xfail
def test_bad_as_expected(): assert False
@pytest.mark.xfail
def test_good_unexpectedly(): pass
@pytest.mark.skip
def test_skipped(): pass
def test_skips(): pytest.skip()
@pytest.fixture
def broken(): raise OSError
def test_without_fixture(broken): pass
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout's folder of tests."""
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with a commit that the branch `old` keeps."""
    git(tmp_path, "init", "-q", "-b", "old")
    for name in ("kept", "changed", "renamed", "deleted", "committed"):
        (tmp_path / name).write_text(f"{name}\n")
    (tmp_path / ".gitignore").write_text("ignored\n")
    commit(tmp_path)
    git(tmp_path, "switch", "-q", "-c", "new")
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "A commit")


@pytest.mark.parametrize(
    ("name", "own", "neighbours"),
    [
        ("userspace/ihsm/bus/arena.py", ["tests/userspace/bus/test_arena.py"], []),
        ("userspace/ihsm/bus/vfio.py", [], ["tests/userspace/bus/test_arena.py", "tests/userspace/bus/test_other.py"]),
        ("userspace/ihsm/uri.py", ["tests/userspace/test_uri.py"], []),
        ("userspace/ihsm/ddi/keys.py", [], ["tests/userspace/test_uri.py"]),
        ("abi/ihsm_abi/ddi/keys.py", [], ["tests/abi/test_mbor.py"]),
        ("abi/ihsm_abi/mbor.py", ["tests/abi/test_mbor.py"], []),
        ("scripts/bootstrap/apt.py", [], ["tests/scripts/test_bootstrap.py"]),
        ("scripts/check-licences", ["tests/scripts/test_check_licences.py"], []),
        ("pyproject.toml", ["tests/scripts/test_lock.py"], []),
        ("requirements/lock.txt", ["tests/scripts/test_lock.py"], []),
        ("docs/hsm.md", *PAGES),
        ("docs/reference/bus.md", *PAGES),
        ("README.md", *PAGES),
        ("docs/kernel-driver.md", [DRIVER_PAGE, PAGES[0][0]], PAGES[1]),
        ("kmod_sim/ihsm_kmod/hsm/queue.py", ["tests/kmod_sim/hsm/test_queue.py"], [DRIVER_PAGE]),
        ("kmod_sim/ihsm_kmod/hsm/irq.py", [], [DRIVER_PAGE, "tests/kmod_sim/hsm/test_queue.py"]),
        ("kmod_sim/ihsm_kmod/kernel/dma.py", ["tests/kmod_sim/kernel/test_dma.py"], [DRIVER_PAGE]),
        ("scripts/check", ["tests/scripts/test_checking.py"], []),
        ("scripts/demo", [], []),
        ("tests/mutants/one.patch", ["tests/scripts/test_mutation.py"], []),
        ("tests/userspace/bus/test_arena.py", ["tests/userspace/bus/test_arena.py"], []),
        (
            "tests/userspace/bus/conftest.py",
            [],
            ["tests/userspace/bus/test_arena.py", "tests/userspace/bus/test_other.py"],
        ),
        ("vfio_device/native/ext_stubs.py", [EXT_STUBS], []),
        ("vfio_device/native/ext_build.py", [EXT_STUBS], []),
        ("vfio_device/native/hatch_build.py", ["tests/scripts/test_packaging.py"], []),
        ("vfio_device/native/engine.c", [CALL_GRAPH], [RINGS, EXT_STUBS, *SEAMS]),
        ("vfio_device/native/meson.build", [], [RINGS, EXT_STUBS, *SEAMS]),
        (
            "vfio_device/native/host.c",
            [CALL_GRAPH, SEAMS[0]],
            [RINGS, EXT_STUBS, SEAMS[1], "tests/vfio_device/test_msix.py"],
        ),
        ("vfio_device/native/fastpath/gcm.c", ["tests/vfio_device/fastpath/test_gcm.py", CALL_GRAPH], SEAMS),
        ("vfio_device/native/crypto/aes.c", [CALL_GRAPH], ["tests/vfio_device/fastpath/test_gcm.py", *KEYSTORE]),
        ("vfio_device/native/keystore/bulk.c", [KEYSTORE[0], CALL_GRAPH], KEYSTORE[1:]),
        ("vfio_device/ihsm_device/pci.py", [], []),
        ("NOTICES/README.md", [], []),
    ],
)
def test_a_files_tests_are_found_by_its_path(tree: Path, name: str, own: list[str], neighbours: list[str]) -> None:
    assert selection.tests_of(tree, name, []) == (own, neighbours)


@pytest.mark.parametrize("line", ["from support.rig import Rig", "import support.rig", "from support import a, rig"])
def test_shared_test_code_is_tested_by_what_imports_it(tree: Path, line: str) -> None:
    (tree / "tests/support/middle.py").write_text(f'"""Text."""\n\n{line}\n')
    (tree / "tests/abi/test_mbor.py").write_text("from support.middle import thing\n")
    (tree / "tests/userspace/test_uri.py").write_text("from support.rigging import thing\n")
    assert selection.tests_of(tree, "tests/support/rig.py", []) == ([], ["tests/abi/test_mbor.py"])
    assert selection.tests_of(tree, "tests/support/unused.py", []) == ([], [])


def test_what_is_some_files_own_test_is_nobodys_neighbour(tree: Path) -> None:
    names = [
        "userspace/ihsm/bus/vfio.py",
        "userspace/ihsm/bus/arena.py",
        "abi/ihsm_abi/mbor.py",
        "abi/ihsm_abi/bits.py",
    ]
    assert selection.tests_of_all(tree, names, []) == (
        ["tests/abi/test_mbor.py", "tests/userspace/bus/test_arena.py"],
        ["tests/userspace/bus/test_other.py"],
    )


def test_what_notices_a_mutant_of_the_file_comes_first_among_neighbours(tree: Path) -> None:
    (tree / "tests/mutants").mkdir()
    (tree / "tests/mutants/one.patch").write_text(MUTANT)
    for name in ("tests/userspace/bus/test_other.py", "tests/userspace/bus/test_arena.py", "tests/abi/test_mbor.py"):
        (tree / name).write_text("def test_it(): ...\ndef test_size(): ...\n")
    mutants = load(tree)
    own = ["tests/userspace/bus/test_arena.py"]
    noticing = ["tests/abi/test_mbor.py::test_size", "tests/userspace/bus/test_other.py::test_it"]
    assert selection.tests_of(tree, "userspace/ihsm/bus/arena.py", mutants) == (own, noticing)
    assert selection.tests_of(tree, "userspace/ihsm/uri.py", mutants) == (["tests/userspace/test_uri.py"], [])
    whole = ["userspace/ihsm/bus/arena.py", "userspace/ihsm/bus/vfio.py"]
    assert selection.tests_of_all(tree, whole, mutants) == (own, [noticing[0], "tests/userspace/bus/test_other.py"])


@pytest.mark.parametrize(
    "name",
    [
        *selection.TREES,
        *itertools.chain(*selection.TREES.values(), *selection.ALSO.values()),
        *selection.NAMED.values(),
        selection.CALL_GRAPH,
    ],
)
def test_named_places_exist(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("pattern", [*selection.NAMED, *selection.ALSO])
def test_named_files_exist(pattern: str) -> None:
    assert [*ROOT.glob(pattern)]


@pytest.mark.parametrize("tree", selection.TREES)
def test_every_source_has_tests_by_its_path(tree: str) -> None:
    sources = [name for name in touched.listed(ROOT, "ls-files", "-z", tree) if name.endswith((".py", ".c", ".md"))]
    assert sources
    for name in sources:
        own, neighbours = selection.tests_of(ROOT, name, [])
        assert own or neighbours, name
        assert all((ROOT / test).is_file() for test in [*own, *neighbours])


def test_touched_files_are_those_that_differ_and_those_that_are_new(repository: Path) -> None:
    (repository / "committed").write_text("otherwise\n")
    commit(repository)
    (repository / "changed").write_text("otherwise\n")
    (repository / "deleted").unlink()
    (repository / "renamed").rename(repository / "with another name")
    (repository / "ignored").write_text("")
    (repository / "new").write_text("")
    git(repository, "add", "new")
    assert touched.touched_files(repository, "HEAD") == ["changed", "new", "with another name"]
    assert touched.touched_files(repository, "old") == ["changed", "committed", "new", "with another name"]


def test_what_the_other_branch_got_since_is_not_touched(repository: Path) -> None:
    git(repository, "switch", "-q", "old")
    (repository / "changed").write_text("by others\n")
    commit(repository)
    git(repository, "switch", "-q", "new")
    (repository / "kept").write_text("otherwise\n")
    assert touched.touched_files(repository, "old") == ["kept"]


def test_a_revision_that_does_not_exist(repository: Path) -> None:
    with pytest.raises(ValueError, match="no-such-revision"):
        touched.touched_files(repository, "no-such-revision")


def test_shell_scripts_are_known_by_their_first_line(repository: Path) -> None:
    for name, line in {
        "a": "#!/bin/sh\n",
        "b": "#!/usr/bin/env bash\n",
        "c": "#!/usr/bin/env python3\n",
        "d": "\n#!/bin/sh\n",
        "ignored": "#!/bin/sh\n",
    }.items():
        (repository / name).write_text(line)
    git(repository, "add", "a")
    assert touched.shell_scripts(repository) == ["a", "b"]
    assert "userspace/ihsm/guest/init.sh" in touched.shell_scripts(ROOT)


def test_files_are_named_from_the_callers_folder(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = repository / "folder"
    folder.mkdir()
    (folder / "inner").write_text("")
    names = ["inner", "./inner", "../kept", str(repository / "changed")]
    assert touched.named_files(repository, folder, names) == ["changed", "folder/inner", "kept"]
    outside = tmp_path_factory.mktemp("outside") / "file"
    outside.write_text("")
    for wrong in ("does/not/exist.py", "kept", "../folder", str(outside)):
        with pytest.raises(ValueError, match=f"^no such file in this checkout: {re.escape(wrong)}$"):
            touched.named_files(repository, folder, ["inner", wrong])


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("does/not/exist.py", "no such file in this checkout: does/not/exist.py"),
        ("--since=no-such-revision", "fatal: Not a valid object name no-such-revision"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(tmp_path: Path, argument: str, said: str) -> None:
    done = subprocess.run([ROOT / "scripts/check", argument], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"check: {said}\n")


def test_slow_checks_run_where_their_files_were_touched() -> None:
    always, slow = checks.Check(("always",)), checks.Check(("slow",), (".c", ".h"))
    assert checks.concerned([always, slow], ["a.py"]) == [("always",)]
    assert checks.concerned([always, slow], ["a.py", "b.h"]) == [("always",), ("slow", "b.h")]


def test_every_check_runs_though_one_fails(capfd: pytest.CaptureFixture[str]) -> None:
    commands: Sequence[Sequence[str]] = (("false",), ("no-such-program", "x"), ("sh", "-c", "echo third"))
    assert checks.failed(commands) == ["false", "no-such-program x"]
    shown = capfd.readouterr().out
    assert "no-such-program is not in .venv: run scripts/setup\n" in shown
    assert "third\n" in shown


def test_without_an_environment_the_script_that_makes_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    script = shutil.copy2(ROOT / "scripts/check", tmp_path / "scripts")
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "check: there is no .venv here: run scripts/setup once, then start again\n"


class Commands:
    """Stands in for `checks.run`: notes the commands, and fails those that begin with the given words."""

    def __init__(self, *failing: str) -> None:
        self.ran: list[str] = []
        self._failing = failing

    def __call__(self, command: Sequence[str]) -> int:
        self.ran.append(" ".join(command))
        return int(" ".join(command).startswith(self._failing))


def test_on_a_build_that_failed_nothing_that_needs_it_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Commands("meson compile", "ruff check")
    monkeypatch.setattr(checks, "run", commands)
    monkeypatch.setattr(sys, "argv", ["check", str(ROOT / "vfio_device/native/host.c")])
    assert program.main() == 1
    assert commands.ran[-1] == "meson compile -C build/native"
    assert "lint-imports --no-logo" in commands.ran
    assert not [
        command for command in commands.ran if re.match("python scripts/check-c|pytest|mypy|scripts/reference", command)
    ]
    said, _, remark = capsys.readouterr().out.splitlines()[-1].partition("; ")
    assert re.fullmatch(r"check: FAILED after \d+ s: ruff check, meson compile", said)
    assert remark == "nothing that needs the build was checked or tested"


def test_after_compiling_come_checks_and_tests_of_what_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = Commands()
    monkeypatch.setattr(checks, "run", commands)
    monkeypatch.setattr(sys, "argv", ["check", str(ROOT / "vfio_device/native/host.c")])
    assert program.main() == 1, "no test has run"
    after = commands.ran[commands.ran.index("meson compile -C build/native") + 1 :]
    assert "python scripts/check-c vfio_device/native/host.c" in after
    assert after[-1].startswith("pytest ")


def test_a_mutant_that_cannot_be_read_is_a_failure(
    tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "tests/mutants").mkdir()
    (tree / "tests/mutants/one.patch").write_text("Mutant: Without a diff.\n")
    monkeypatch.setattr(checks, "run", Commands())
    monkeypatch.setattr(checks, "all_checks", list)
    monkeypatch.setattr(checks, "ROOT", tree)
    assert program.check_touched(["scripts/demo"]) == (["mutants"], [])
    shown = capsys.readouterr().out
    assert "one.patch: no diff as git makes it\n" in shown
    assert "check: no tests by path for scripts/demo\n" in shown


@pytest.mark.parametrize(
    ("status", "tally", "expected"),
    [
        (0, Tally(170, 170, 0), ([], [])),
        (0, Tally(170, 20, 150), ([], ["150 of 170 tests left out"])),
        (0, Tally(170, 0, 170), (["tests: none ran"], ["170 of 170 tests left out"])),
        (0, Tally(3, 0, 0), (["tests: none ran"], [])),
        (1, Tally(170, 20, 150), (["tests"], ["150 of 170 tests left out"])),
        (4, Tally(), (["tests"], [])),
        (5, Tally(), ([], ["no test ran: those of these files are long or need a guest"])),
    ],
)
def test_the_verdict_says_what_did_not_run(status: int, tally: Tally, expected: tuple[list[str], list[str]]) -> None:
    assert program.verdict(status, tally) == expected


def test_neighbours_are_left_out_when_time_is_up_and_own_tests_never(tmp_path: Path) -> None:
    for name in ("test_own.py", "test_neighbour.py"):
        (tmp_path / name).write_text("def test_it():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    results, tallies = {}, {}
    for seconds in ("0", "inf"):
        shown, tallies[seconds] = budgeted(tmp_path, "-n", "1", "-rps", "--own", "test_own.py", "--others-for", seconds)
        results[seconds] = set(re.findall(r"^PASSED (test_\w+)\.py", shown, re.MULTILINE))
    assert results == {"0": {"test_own"}, "inf": {"test_own", "test_neighbour"}}
    assert tallies == {"0": Tally(2, 1, 1), "inf": Tally(2, 2, 0)}


def test_what_counts_as_run(tmp_path: Path) -> None:
    (tmp_path / "test_kinds.py").write_text(KINDS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    assert budgeted(tmp_path, "-n", "1")[1] == Tally(selected=7, ran=5, left_out=0)
    assert budgeted(tmp_path, "-n", "1", "-k", "skip")[1] == Tally(selected=2, ran=0, left_out=0)


def budgeted(folder: Path, *arguments: str) -> tuple[str, Tally]:
    """What pytest prints with the plug-in, and its counts."""
    tally = folder / "tally"
    command = [sys.executable, "-m", "pytest", "-v", "-p", "checking.budget", "--tally", tally, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.stdout, Tally.read(tally)


def test_a_failure_is_shown_before_the_next_test_ends(tmp_path: Path) -> None:
    (tmp_path / "test_two.py").write_text(
        "def test_bad():\n    print('printed')\n    assert 1 == 2, 'reason'\n\ndef test_good():\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "-p", "support.reporting", "-v", "-n", "1"]
    done = subprocess.run(
        [*command, tmp_path / "test_two.py"],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        check=False,
    )
    shown = done.stdout.split("test_good")[0]
    assert "reason" in shown
    assert "printed" in shown
