# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Files for results: tried before the work, written whole or left as they were."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import click
import pytest

from ihsm.cli.output_files import OUTPUT_FILE, write_output
from ihsm.errors import OutputError
from support.commands import run
from support.waiting import ended


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty one: other things lie in tmp_path."""
    path = tmp_path / "folder"
    path.mkdir()
    return path


def convert(path: Path) -> Path:
    return Path(OUTPUT_FILE.convert(str(path), None, None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("/nowhere/file", "No such file or directory"),
        ("/dev/full", "No space left on device"),
        ("/dev/null/file", "Not a directory"),
        ("/proc/file", "No such file or directory"),
        ("/" + "x" * 300, "File name too long"),
        ("/tmp", "is a directory"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [("info", "--chain"), ("selftest", "--report"), ("selftest", "--chain"), ("bench", "--quick", "--report")],
)
def test_what_cannot_be_written_is_refused_before_the_work(
    command: tuple[str, ...], place: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*arguments: object, **options: object) -> None:
        pytest.fail("the work was begun")

    for name in ("cli.info.open_device", "cli.selftest.open_device", "cli.bench.measure"):
        monkeypatch.setattr(f"ihsm.{name}", work)
    result = run(*command, place)
    assert result.exit_code == 2, result.output
    assert reason in result.output.splitlines()[-1]


def test_trying_leaves_everything_as_it_was(folder: Path) -> None:
    there, new, link = folder / "there", folder / "new", folder / "link"
    there.write_text("kept")
    link.symlink_to(folder / "not yet")
    for path in (there, new, link):
        assert convert(path) == path
    assert there.read_text() == "kept"
    assert sorted(path.name for path in folder.iterdir()) == ["link", "there"]


def test_a_file_is_replaced_with_its_permissions_and_through_links(tmp_path: Path) -> None:
    there, link = tmp_path / "there", tmp_path / "link"
    there.write_text("before")
    there.chmod(0o640)
    link.symlink_to(there)
    write_output(link, b"after")
    assert there.read_bytes() == b"after"
    assert link.is_symlink()
    assert stat.S_IMODE(there.stat().st_mode) == 0o640
    before = os.umask(0o027)
    try:
        write_output(tmp_path / "new", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_what_fails_leaves_the_file_that_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = folder / "there"
    there.write_text("before")

    def full(descriptor: int, *arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ihsm.cli.output_files.open", full, raising=False)
    with pytest.raises(OutputError, match="there: No space left on device"):
        write_output(there, b"after")
    assert there.read_text() == "before"
    assert list(folder.iterdir()) == [there]


def test_pipes_and_devices_are_written_to_and_stay(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert convert(pipe) == pipe
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_output(pipe, b"through")
    ended(reader)
    assert read == [b"through"]
    assert pipe.is_fifo()
    write_output(Path("/dev/null"), b"away")
    assert Path("/dev/null").is_char_device()


def test_an_open_pipe_can_be_named() -> None:
    """As a shell names it: >(program)."""
    reader, writer = os.pipe()
    try:
        path = convert(Path(f"/dev/fd/{writer}"))
        write_output(path, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
        os.close(writer)


def test_standard_output_is_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(click.BadParameter, match=r"standard output has lines for people: name a file, \./-"):
        convert(Path("-"))
    assert not list(folder.iterdir())


def test_a_folder_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="directory"):
        convert(Path("/tmp"))
