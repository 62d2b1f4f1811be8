# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of conditions, and that a run knows which of their rows no passed test covered."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.conditions import DATA, KMOD_TABLE, TABLE, rows

PASSED, FAILED = 0, 1


def run(folder: Path, test: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A run of its own with one file of tests."""
    (folder / "test_it.py").write_text(test)
    environment = os.environ | {"PYTHONPATH": str(DATA.parent)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "conformance.conditions",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
    ]
    return subprocess.run(
        [*command, "-c", os.devnull, "--rootdir", folder, *options, folder],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_row_is_there_once() -> None:
    names = [row.name for row in rows()]
    assert len(names) == len(set(names))
    assert {"CloseSession/kind-mismatch", "gcm/tag-mismatch", "kmod/A.6/7"} <= {*names}


def test_the_counts_are_those_of_the_rows() -> None:
    sections = KMOD_TABLE["sections"]
    assert KMOD_TABLE["about"]["count"] == {section: len(entries) for section, entries in sections.items()}
    assert TABLE["about"]["count"]["common"] == len(TABLE["common"])


@pytest.mark.parametrize("section", KMOD_TABLE["sections"])
def test_rows_of_the_driver_say_what_they_must(section: str) -> None:
    entries = KMOD_TABLE["sections"][section]
    assert [entry["order"] for entry in entries] == [*range(1, len(entries) + 1)]
    for entry in entries:
        assert entry.keys() - {"effect", "why"} == {"id", "order", "condition", "status", "reachable", "source"}
        assert entry["reachable"] != ("why" in entry)


def test_numbered_checks_are_complete() -> None:
    """02 A.6 and A.7 number their checks, A.10 and A.12 their rows."""
    for section, last in (("A.6", 21), ("A.7", 17), ("A.10", 7), ("A.12", 6)):
        heads = {entry["id"].split("-")[0].rstrip("gx") for entry in KMOD_TABLE["sections"][section]}
        assert {str(number) for number in range(1, last + 1)} <= heads


def test_a_row_without_a_test_fails_the_run(tmp_path: Path) -> None:
    test = "def test_it(covers): covers('kmod/A.5/larger')\n"
    result = run(tmp_path, test, "--conditions-of", "kmod/A.5")
    assert result.returncode == FAILED
    assert "no passed test: kmod/A.5/ignored (2, taken)" in result.stdout
    assert "1 of 2 reachable conditions tested" in result.stdout


def test_all_rows_covered_is_a_success(tmp_path: Path) -> None:
    test = "def test_it(covers): covers('kmod/A.5/larger', 'kmod/A.5/ignored')\n"
    result = run(tmp_path, test, "--conditions-of", "kmod/A.5")
    assert result.returncode == PASSED
    assert "2 of 2 reachable conditions tested" in result.stdout


def test_a_failed_test_covers_nothing(tmp_path: Path) -> None:
    test = "def test_it(covers):\n    covers('kmod/A.5/larger', 'kmod/A.5/ignored')\n    assert False\n"
    assert "0 of 2 reachable conditions tested" in run(tmp_path, test, "--conditions-of", "kmod/A.5").stdout


def test_without_a_prefix_both_tables_count(tmp_path: Path) -> None:
    result = run(tmp_path, "def test_it(): pass\n", "--conditions")
    assert result.returncode == FAILED
    assert "no passed test: kmod/A.3/thread " in result.stdout
    assert "no passed test: CloseSession/kind-mismatch " in result.stdout
    assert f"0 of {sum(row.reachable for row in rows())} reachable conditions tested" in result.stdout


def test_an_unreachable_row_is_not_asked_for(tmp_path: Path) -> None:
    result = run(tmp_path, "def test_it(): pass\n", "--conditions-of", "kmod/A.6/ext-")
    assert result.returncode == PASSED
    assert "0 of 0 reachable conditions tested" in result.stdout


def test_an_unknown_row_fails_its_test(tmp_path: Path) -> None:
    result = run(tmp_path, "def test_it(covers): covers('kmod/A.6/99')\n")
    assert result.returncode == FAILED
    assert "kmod/A.6/99 is no row of the tables of conditions" in result.stdout
