# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where sockets lie: folders that are short enough, and variables that count."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from ihsm_abi.sockets import MAX_PATH_BYTES, default_folder, private_parents

PREFIX = "ihsm-"
NAME = "0.sock.63.ctl"


@pytest.mark.parametrize("length", [40, 80, 81, 82, 107, 200, 250])
def test_a_private_folder_is_in_tmpdir_as_long_as_a_socket_fits(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own name has 13 characters, and each name a separator before it."""
    parent = "/tmp/" + "t" * (length - len("/tmp/"))
    monkeypatch.setattr(tempfile, "tempdir", parent)
    parents = private_parents(PREFIX, NAME)
    assert (parents[0] == parent) == (parent in parents) == (length <= MAX_PATH_BYTES - len(f"/ihsm-12345678/{NAME}"))
    assert parents[-3:] == ["/tmp", "/var/tmp", "/dev/shm"]


def test_a_private_folder_is_one_that_can_be_named_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", os.fsdecode(b"/tmp/\xff"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert private_parents(PREFIX, NAME) == ["/tmp", "/var/tmp", "/dev/shm"]


def test_no_folder_is_short_enough_for_a_name_that_is_too_long() -> None:
    assert private_parents(PREFIX, "x" * MAX_PATH_BYTES) == []


@pytest.mark.parametrize("runtime", [None, "", "relative"])
def test_a_runtime_folder_that_is_no_path_counts_as_none(runtime: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime is not None:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    assert default_folder() == Path(f"/tmp/ihsm-{os.getuid()}")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert default_folder() == Path("/run/user/1/ihsm")
