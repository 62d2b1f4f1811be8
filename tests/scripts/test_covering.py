# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/coverage`: how reports become a table; that servers are counted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from covering.lines import merged, ranges, table

ROOT = Path(__file__).parents[2]
FIRST = "SF:/tree/native/a.c\nDA:3,1\nDA:4,0\nDA:5,0\nDA:9,0\nSF:/usr/include/b.h\nDA:1,0\nend_of_record\n"
SECOND = "SF:/tree/native/a.c\nDA:3,0\nDA:4,7\nend_of_record\nSF:/tree/other/c.c\nDA:1,0\nSF:/tree/native/d.c\nDA:1,2\n"


def test_a_line_is_reached_if_any_report_says_so() -> None:
    assert merged([FIRST, SECOND], Path("/tree"), "native/") == {
        "native/a.c": {3: True, 4: True, 5: False, 9: False},
        "native/d.c": {1: True},
    }


def test_the_table_names_what_was_not_reached() -> None:
    assert list(table(merged([FIRST, SECOND], Path("/tree"), "native/"))) == [
        " 50.0 %  native/a.c: 5, 9",
        "100.0 %  native/d.c",
        " 60.0 %  of 5 lines",
    ]


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([4], "4"), ([1, 2, 3, 7, 9, 10], "1-3, 7, 9-10")])
def test_lines_that_follow_each_other_are_a_range(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


@pytest.mark.long
@pytest.mark.skipif(os.geteuid() != 0, reason="installing a compiler needs root")
def test_what_servers_do_is_counted() -> None:
    """Behind their sandbox, which lets them open no file; no harness reaches the reader of doorbell pages."""
    test = "tests/vfio_device/test_serve.py"
    done = subprocess.run([ROOT / "scripts" / "coverage", test], capture_output=True, text=True)
    rows = {row.split()[2].rstrip(":"): float(row.split()[0]) for row in done.stdout.splitlines() if " %  " in row}
    assert rows["vfio_device/native/poller.c"] > 50, done.stdout + done.stderr
