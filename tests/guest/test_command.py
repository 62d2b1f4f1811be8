# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A guest's command: its streams, its status, the files it sees."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from support.guests import run_guest

pytestmark = pytest.mark.guest


def test_streams_are_complete_and_the_status_is_the_commands(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    source = tmp_path / "in"
    source.write_bytes(data)
    with source.open("rb") as stdin:
        done = run_guest("tee /dev/stderr | sha256sum; printf 'no newline'; exit 37", stdin=stdin, shares=(tmp_path,))
    assert done.status == 37
    assert done.out == f"{hashlib.sha256(data).hexdigest()}  -\nno newline"


def test_the_hosts_files_are_seen_and_only_shared_folders_change(tmp_path: Path) -> None:
    private, shared = tmp_path / "private", tmp_path / "sha,red"
    private.mkdir()
    shared.mkdir()
    (private / "kept").write_text("host\n")
    lines = [
        f"cat {private}/kept",
        f"echo guest > {private}/kept && cat {private}/kept",
        f"echo guest > '{shared}/made'",
        "pwd",
        f"command -v python && {sys.executable} -c 'import ihsm; print(ihsm.__file__)'",
        "cat /proc/sys/kernel/osrelease",
    ]
    done = run_guest(" && ".join(lines), shares=(shared,))
    assert done.status == 0, done.err
    seen = done.out.splitlines()
    assert seen[0] == "host"
    assert seen[1] == "guest"
    assert seen[2] == os.getcwd()
    assert Path(seen[3]).parent == Path(sys.executable).parent
    assert "userspace/ihsm" in seen[4]
    assert (private / "kept").read_text() == "host\n"
    assert (shared / "made").read_text() == "guest\n"
