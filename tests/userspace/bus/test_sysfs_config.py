# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration space as sysfs shows it, over files that stand for the kernel's."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ihsm import errors
from ihsm.bus import SysfsConfig
from ihsm.uri import open_config
from support.waiting import HANG_S

URI = "pci:0000:00:04.0"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_bytes(bytes(range(256)) * 16)
    return path


def test_bytes_are_read_and_written_where_they_are(path: Path) -> None:
    with SysfsConfig(path, URI) as config:
        assert config.config_bytes == 4096
        assert config.read_config(0x102, 4) == bytes([2, 3, 4, 5])
        config.write_config(0x200, b"data")
    assert path.read_bytes()[0x1FF:0x205] == b"\xffdata\x04"
    config.close()


def test_accesses_beyond_the_end(path: Path) -> None:
    with SysfsConfig(path, URI) as config:
        with pytest.raises(errors.ArgumentError, match="size_bytes"):
            config.read_config(4094, 4)
        with pytest.raises(errors.ArgumentError, match="offset"):
            config.write_config(4094, b"data")


def test_no_such_function() -> None:
    with pytest.raises(errors.DeviceNotFoundError, match=r"0042:42:1f.7: this machine has no such PCI function"):
        SysfsConfig.open("0042:42:1f.7")


def test_a_kernel_that_shows_only_the_header(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pread", lambda fd, size, offset: b"")
    with SysfsConfig(path, URI) as config, pytest.raises(errors.ConfigRefusedError, match="shows 256 bytes"):
        config.read_config(256, 4)


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (errno.EPERM, errors.ConfigRefusedError, "lockdown"),
        (errno.EIO, errors.BusError, "writing configuration space: Input/output error"),
    ],
)
def test_a_kernel_that_takes_no_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception], says: str
) -> None:
    def refuse(fd: int, data: bytes, offset: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", refuse)
    with SysfsConfig(path, URI) as config, pytest.raises(kind, match=says):
        config.write_config(0, b"data")


@pytest.mark.parametrize(
    ("code", "kind", "says"),
    [
        (errno.EACCES, errors.ConfigRefusedError, "root is needed"),
        (errno.EMFILE, errors.BusError, "Too many open files"),
    ],
)
def test_a_file_that_cannot_be_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception], says: str
) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(kind, match=says):
        SysfsConfig(path, URI)


def test_one_has_it_at_a_time(path: Path) -> None:
    """What goes through a mailbox takes many accesses."""
    with SysfsConfig(path, URI):
        for _ in range(2):  # who was refused keeps nothing
            with pytest.raises(
                errors.DeviceBusyError, match=rf"of {URI} is in use by process {os.getpid()} \(.*--wait"
            ):
                SysfsConfig(path, URI)
    with SysfsConfig(path, URI):
        pass


def test_a_child_that_has_the_file_too_does_not_keep_it(path: Path) -> None:
    config = SysfsConfig(path, URI)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[config._fd]) as child:
        config.close()
        SysfsConfig(path, URI).close()
        child.communicate(b"\n")


def test_it_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "0000:00:04.0").mkdir()
    (tmp_path / "0000:00:04.0" / "config").write_bytes(bytes(4096))
    monkeypatch.setattr("ihsm.bus.sysfs_config.SYSFS_DEVICES", tmp_path)
    first = SysfsConfig.open("0000:00:04.0")
    monkeypatch.setattr("ihsm.uri.time.sleep", lambda seconds: first.close())
    with open_config(URI, wait_s=HANG_S) as second:
        assert second.config_bytes == 4096
