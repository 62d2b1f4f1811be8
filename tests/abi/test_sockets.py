# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where sockets lie: folders that are short enough, and variables that count."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from ihsm_abi.sockets import MAX_PATH_BYTES, default_folder, is_utf8, private_folder

NAME = "0.sock.63.ctl"


@pytest.mark.parametrize("length", [40, 80, 81, 82, 107, 200, 250])
def test_a_private_folder_is_in_tmpdir_as_long_as_a_socket_fits(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own name has 13 characters, and each name a separator before it."""
    room = MAX_PATH_BYTES - len(f"/ihsm-12345678/{NAME}")
    parent = Path("/tmp", "t" * (length - len("/tmp/")))
    parent.mkdir()
    try:
        monkeypatch.setattr(tempfile, "tempdir", str(parent))
        folder = private_folder(NAME)
        assert (folder.parent == parent) == (length <= room)
        assert len(os.fsencode(folder / NAME)) <= MAX_PATH_BYTES
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        folder.rmdir()
    finally:
        parent.rmdir()


def test_a_private_folder_is_one_that_can_be_named_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(odd)
    monkeypatch.setattr(tempfile, "tempdir", os.fsdecode(odd))
    folder = private_folder(NAME)
    assert is_utf8(folder)
    folder.rmdir()


def test_a_folder_that_cannot_be_made_is_made_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    folder = private_folder(NAME)
    assert not folder.is_relative_to("/proc")
    folder.rmdir()


def test_the_first_reason_is_told_when_no_folder_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/proc")

    def refuse(prefix: str, dir: str) -> str:
        raise PermissionError(13, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(PermissionError) as caught:
        private_folder(NAME)
    assert caught.value.filename == "/proc"
    with pytest.raises(OSError, match="File name too long"):
        private_folder("x" * 107)


@pytest.mark.parametrize("runtime", [None, "", "relative"])
def test_a_runtime_folder_that_is_no_path_counts_as_none(runtime: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert default_folder() == Path(f"/tmp/ihsm-{os.getuid()}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert default_folder() == Path("/run/user/1/ihsm")
