# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a session tells of a guest's kernel, and a folder that is watched."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import pytest

from ihsm.guest import GuestConfig, Streams, bench
from ihsm.guest.errors import GuestError
from ihsm.guest.kernel_log import Complaint, Kind
from ihsm.guest.session import Finding, Session


def test_the_same_complaint_is_told_once_with_its_count() -> None:
    told: list[Finding] = []
    session = Session(config=GuestConfig(), shell="true", report=told.append)
    leak = Complaint(Kind.LEAK, "unreferenced object of 8 bytes")
    session.tell([leak, Complaint(Kind.WARNING, "odd", "a.c:3"), leak], [])
    assert [str(finding) for finding in told] == [
        "memory leak: unreferenced object of 8 bytes, 2 times",
        "warning: odd (at a.c:3)",
    ]


class _Over(Exception):
    """Ends the loop that has no end."""


class _Runs:
    """Stands for a bench: fails, then succeeds, then ends the test; each run but the last changes the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0

    def run(self, streams: Streams) -> int:
        self.count += 1
        if self.count == 3:
            raise _Over
        (self.folder / "module.c").write_text("x" * self.count)
        if self.count == 1:
            raise GuestError("no luck")
        return 7


def test_a_folder_is_run_again_after_each_change_whatever_became_of_the_run(tmp_path: Path) -> None:
    said: list[str] = []
    streams = Streams(None, io.BytesIO(), io.BytesIO())
    with pytest.raises(_Over):
        bench.watch(cast(bench.Bench, _Runs(tmp_path)), tmp_path, streams, said.append)
    waiting = f"guest: waiting for a change below {tmp_path}"
    assert said == ["Error: no luck", waiting, "guest: exit status 7", waiting]
