# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/coverage`: how reports become a table; what is counted, that servers are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from covering.__main__ import verdict
from covering.branches import arrows, counting, taken
from covering.lines import merged, ranges
from covering.reached import Reached, share, table

ROOT = Path(__file__).parents[2]
FIRST = (
    "SF:/tree/native/a.c\nDA:3,1\nDA:4,0\nDA:5,0\nDA:9,0\nSF:/usr/include/b.h\nDA:1,0\nSF:/tree/native/d.c\nDA:1,2\n"
)
SECOND = "SF:/tree/native/a.c\nDA:3,0\nDA:4,7\nDA:6,1\nSF:/tree/other/c.c\nDA:1,0\nSF:/tree/native/e.c\nDA:1,2\n"


def test_a_line_of_the_product_is_reached_if_any_report_says_so() -> None:
    """Line 6 and e.c are of another build, with seams say."""
    assert merged([FIRST, SECOND], Path("/tree"), "native/") == {
        "native/a.c": {3: True, 4: True, 5: False, 9: False},
        "native/d.c": {1: True},
    }


def test_the_table_names_what_was_not_reached() -> None:
    assert list(table(merged([FIRST, SECOND], Path("/tree"), "native/"), ranges, "lines")) == [
        " 50.0 %  native/a.c: 5, 9",
        "100.0 %  native/d.c",
        " 60.0 %  of 5 lines",
    ]


def test_nothing_is_not_enough() -> None:
    assert share({}) == 0 == share({"a.py": {}})


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([4], "4"), ([1, 2, 3, 7, 9, 10], "1-3, 7, 9-10")])
def test_lines_that_follow_each_other_are_a_range(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with a module that goes one way or the other, in a thread as well, and one that nobody imports."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "module.py").write_text(
        "import threading\n\n\n"
        "def choose(way):\n    if way == 1:\n        return 'one'\n    return 'another'\n\n\n"
        "def aside(way):\n    worker = threading.Thread(target=choose, args=(way,))\n"
        "    worker.start()\n    worker.join()\n"
    )
    (folder / "unused.py").write_text("def f(x):\n    while x:\n        x -= 1\n")
    return folder


def branches_of(sources: Path, tmp_path: Path, *programs: str) -> Reached[tuple[int, int]]:
    """What these programs have taken, each in a process of its own."""
    counts = tmp_path / "counts"
    counts.mkdir()
    environment = counting(os.environ | {"PYTHONPATH": str(sources)}, sources, counts)
    for program in programs:
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done
    return taken(counts, tmp_path, sources)


NOTHING_OF_UNUSED = {(2, 3): False, (2, -1): False}


def test_branches_of_all_processes_and_threads_are_taken_together(sources: Path, tmp_path: Path) -> None:
    assert branches_of(sources, tmp_path, "import module; module.choose(1)", "import module; module.aside(2)") == {
        "sources/module.py": {(5, 6): True, (5, 7): True},
        "sources/unused.py": NOTHING_OF_UNUSED,
    }


def test_a_process_that_may_write_little_takes_its_own_counts_with_it_and_no_others(
    sources: Path, tmp_path: Path
) -> None:
    cut = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50, 50)); import module; module.choose(2)"
    assert branches_of(sources, tmp_path, "import module; module.choose(1)", cut)["sources/module.py"] == {
        (5, 6): True,
        (5, 7): False,
    }


def test_counts_are_no_standard_stream(sources: Path, tmp_path: Path) -> None:
    """A program without streams writes its last words nowhere, and not among the counts."""
    program = (
        "import os, module; module.choose(1); [os.write(each, b'last words') for each in (0, 1, 2) if is_open(each)]"
    )
    is_open = "import os\ndef is_open(fd):\n    try: return bool(os.fstat(fd))\n    except OSError: return False\n"
    counts = tmp_path / "counts"
    counts.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, is_open + program],
        env=counting(os.environ | {"PYTHONPATH": str(sources)}, sources, counts),
    )
    assert done.returncode == 0
    assert taken(counts, tmp_path, sources)["sources/module.py"] == {(5, 6): True, (5, 7): False}


def test_branches_of_nobody_are_there_and_not_taken(sources: Path, tmp_path: Path) -> None:
    found = branches_of(sources, tmp_path, "pass")
    assert list(table(found, arrows, "branches")) == [
        "  0.0 %  sources/module.py: 5->6, 5->7",
        "  0.0 %  sources/unused.py: 2->exit, 2->3",
        "  0.0 %  of 4 branches",
    ]


def test_a_process_that_may_open_no_file_any_more_is_counted(sources: Path, tmp_path: Path) -> None:
    """As servers are (sandbox/confinement.py), with means that every machine has."""
    confined = "import module, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0)); module.choose(1)"
    assert branches_of(sources, tmp_path, confined)["sources/module.py"] == {(5, 6): True, (5, 7): False}


def test_a_child_does_not_count_for_its_parent_twice(sources: Path, tmp_path: Path) -> None:
    """It ends as its parent does, and has the same file."""
    forks = "import os, module; child = os.fork(); module.choose(1 if child else 2); child and os.waitpid(child, 0)"
    assert branches_of(sources, tmp_path, forks)["sources/module.py"] == {(5, 6): True, (5, 7): False}


@pytest.mark.parametrize(("line_hit", "branch_hit", "status"), [(1, 1, 0), (0, 1, 1), (1, 0, 1)])
def test_too_little_of_either_is_a_failure(line_hit: bool, branch_hit: bool, status: int) -> None:
    assert verdict({"a.c": {1: bool(line_hit)}}, {"a.py": {(1, 2): bool(branch_hit)}}) == status


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="installing a compiler needs root")
def test_what_servers_do_is_counted() -> None:
    """Behind their sandbox, which lets them open no file. No harness reaches the reader of doorbell pages, and no test
    of this file has a security module in its own process."""
    test = "tests/vfio_device/test_serve.py"
    done = subprocess.run([ROOT / "scripts" / "coverage", test], capture_output=True, text=True)
    rows = {row.split()[2].rstrip(":"): float(row.split()[0]) for row in done.stdout.splitlines() if " %  " in row}
    assert rows["vfio_device/native/poller.c"] > 50, done.stdout + done.stderr
    assert rows["vfio_device/ihsm_device/hsm/device/device.py"] > 0, done.stdout + done.stderr
