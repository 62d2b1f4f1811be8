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

from checking import checks, selection, touched

ROOT = Path(__file__).parents[2]
TREE = (
    "tests/abi/test_mbor.py",
    "tests/docs/test_pages.py",
    "tests/scripts/test_bootstrap.py",
    "tests/scripts/test_check_licences.py",
    "tests/support/rig.py",
    "tests/support/unused.py",
    "tests/userspace/bus/conftest.py",
    "tests/vfio_device/engine/test_rings.py",
    "tests/vfio_device/native/test_ext_stubs.py",
    "tests/userspace/bus/test_arena.py",
    "tests/userspace/bus/test_other.py",
    "tests/userspace/test_uri.py",
)


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
        ("docs/hsm.md", [], ["tests/docs/test_pages.py"]),
        ("README.md", [], ["tests/docs/test_pages.py"]),
        ("tests/userspace/bus/test_arena.py", ["tests/userspace/bus/test_arena.py"], []),
        (
            "tests/userspace/bus/conftest.py",
            [],
            ["tests/userspace/bus/test_arena.py", "tests/userspace/bus/test_other.py"],
        ),
        ("vfio_device/native/ext_stubs.py", ["tests/vfio_device/native/test_ext_stubs.py"], []),
        ("vfio_device/native/engine.c", [], ["tests/vfio_device/engine/test_rings.py"]),
        ("vfio_device/ihsm_device/pci.py", [], []),
        ("NOTICES/README.md", [], []),
    ],
)
def test_a_files_tests_are_found_by_its_path(tree: Path, name: str, own: list[str], neighbours: list[str]) -> None:
    assert selection.tests_of(tree, name) == (own, neighbours)


@pytest.mark.parametrize("line", ["from support.rig import Rig", "import support.rig", "from support import a, rig"])
def test_shared_test_code_is_tested_by_what_imports_it(tree: Path, line: str) -> None:
    (tree / "tests/support/middle.py").write_text(f'"""Text."""\n\n{line}\n')
    (tree / "tests/abi/test_mbor.py").write_text("from support.middle import thing\n")
    (tree / "tests/userspace/test_uri.py").write_text("from support.rigging import thing\n")
    assert selection.tests_of(tree, "tests/support/rig.py") == ([], ["tests/abi/test_mbor.py"])
    assert selection.tests_of(tree, "tests/support/unused.py") == ([], [])


def test_what_is_some_files_own_test_is_nobodys_neighbour(tree: Path) -> None:
    names = [
        "userspace/ihsm/bus/vfio.py",
        "userspace/ihsm/bus/arena.py",
        "abi/ihsm_abi/mbor.py",
        "abi/ihsm_abi/bits.py",
    ]
    assert selection.tests_of_all(tree, names) == (
        ["tests/abi/test_mbor.py", "tests/userspace/bus/test_arena.py"],
        ["tests/userspace/bus/test_other.py"],
    )


@pytest.mark.parametrize(
    "folder", [*selection.TREES, *itertools.chain(*selection.TREES.values(), selection.ROOT_FILES.values())]
)
def test_named_folders_exist(folder: str) -> None:
    assert (ROOT / folder).exists()


@pytest.mark.parametrize("tree", [tree for tree in selection.TREES if tree != "requirements"])
def test_every_source_has_tests_by_its_path(tree: str) -> None:
    sources = [name for name in touched.listed(ROOT, "ls-files", "-z", tree) if name.endswith((".py", ".c", ".md"))]
    assert sources
    for name in sources:
        own, neighbours = selection.tests_of(ROOT, name)
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


def test_neighbours_are_left_out_when_time_is_up_and_own_tests_never(tmp_path: Path) -> None:
    for name in ("test_own.py", "test_neighbour.py"):
        (tmp_path / name).write_text("def test_it():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-v", "-n", "1", "-p", "checking.budget"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "scripts")}
    results = {}
    for until in ("0", "inf"):
        arguments = ["--neighbours", "test_neighbour.py", "--until", until]
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        results[until] = set(re.findall(r"(PASSED|SKIPPED) (test_\w+)\.py", done.stdout))
    assert results["0"] == {("PASSED", "test_own"), ("SKIPPED", "test_neighbour")}
    assert results["inf"] == {("PASSED", "test_own"), ("PASSED", "test_neighbour")}


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
