# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Names of file systems, without asking them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ihsm_device import memory_files
from ihsm_device.memory_files import file_system


def named(fd: int) -> str:
    device = os.fstat(fd).st_dev
    return file_system(fd, (os.major(device), os.minor(device)))


def test_what_is_mounted_here_has_its_type_and_path() -> None:
    with Path("/proc/self/maps").open() as file:
        assert named(file.fileno()) == f"proc ('/proc/{os.getpid()}/maps')"


def test_what_is_mounted_nowhere_is_told_by_its_device() -> None:
    read, write = os.pipe()
    name = named(read)
    assert "not mounted here" in name
    assert "pipe:" in name
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(("ratio", "kind"), [("1\n", "fuse"), ("100\n", "nfs")])
def test_what_is_mounted_in_another_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ratio: str, kind: str
) -> None:
    """The kernel's entry for its writeback stands in for the mount."""
    (tmp_path / "0:41").mkdir()
    (tmp_path / "0:41" / "max_ratio").write_text(ratio)
    monkeypatch.setattr(memory_files, "BDI", tmp_path)
    read, write = os.pipe()
    assert file_system(read, (0, 41)).startswith(kind)
    assert not file_system(read, (0, 42)).startswith(kind)
    os.close(read)
    os.close(write)
