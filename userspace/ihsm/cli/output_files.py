# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Files that commands write results to: tried before the work, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from ihsm.errors import OutputError

_NEW_FILE: Final = 0o666


class OutputFile(click.Path):
    """Type of an option that names a file to write: it is opened at once, so that no work is done for nothing."""

    def __init__(self) -> None:
        """Values are `Path`; folders are refused."""
        super().__init__(dir_okay=False, path_type=Path)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path, if it can be written to."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        try:
            _try(path)
        except OSError as error:
            self.fail(f"File {click.format_filename(path)!r} cannot be written: {error.strerror or error}", param, ctx)
        return path


def _try(path: Path) -> None:
    """Open for writing, and leave what is there as it was; raises OSError."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        # A name beside it: the file itself must not be there, even for a moment, before there is something in it.
        with _beside(path.resolve()):
            return
    if stat.S_ISFIFO(mode):
        return  # its reader may come later, and opening it would be taken for the whole of what is written
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.write(descriptor, b"")  # a device that is full says so
    finally:
        os.close(descriptor)


OUTPUT_FILE: Final = OutputFile()


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[tuple[int, Path]]:
    """An empty file in the same folder, open for writing; removed at the end unless it was given another name."""
    descriptor, name = tempfile.mkstemp(prefix=".ihsm-", dir=path.parent)
    temporary = Path(name)
    try:
        yield descriptor, temporary
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


def write_output(path: Path, data: bytes) -> None:
    """Write a result file; one that was there stays as it was if this fails.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        # Of a pipe the name that links are resolved to is none that can be opened.
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            _replace(path.resolve(), data)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from None


def _replace(target: Path, data: bytes) -> None:
    try:
        with _beside(target) as (descriptor, temporary):
            os.fchmod(descriptor, _mode(target))
            with open(descriptor, "wb", closefd=False) as file:
                file.write(data)
            temporary.replace(target)
    except PermissionError:
        target.write_bytes(data)  # a file that may be written to, in a folder that may not


def _mode(target: Path) -> int:
    """Permissions of the file, or of a new one."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return _NEW_FILE & ~mask
