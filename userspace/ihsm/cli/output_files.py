# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Files that commands write results to: tried before the work, replaced whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

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
        if os.fspath(value) == "-":
            self.fail("standard output has lines for people: name a file, ./- for one of this name", param, ctx)
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
    import tempfile  # with what it imports it takes as long as a third of click

    descriptor, name = tempfile.mkstemp(prefix=".ihsm-", dir=path.parent)
    temporary = Path(name)
    try:
        yield descriptor, temporary
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


class Writable(Protocol):
    """What results are written to."""

    def write(self, data: Any, /) -> Any:
        """Write all bytes."""


class _Guarded:
    """An unbuffered file whose errors name it: with a buffer its end, too, could fail, and hide why it ends."""

    def __init__(self, path: Path, file: Writable) -> None:
        self._path = path
        self._file = file

    def write(self, data: Any, /) -> None:
        rest = memoryview(data).cast("B")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise _unwritable(self._path, error) from None


def write_output(path: Path, data: bytes) -> None:
    """Write a result file; one that was there stays as it was if this fails.

    Raises:
        OutputError: it cannot be written.
    """
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[Writable]:
    """Write a result file piece by piece; it gets its name, or its new content, when the block ends without exception.

    Raises:
        OutputError: it cannot be written.
    """
    # Of a pipe the name that links are resolved to is none that can be opened.
    opened = _direct(path) if path.exists() and not path.is_file() else _replacing(path.resolve())
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(opened)
        except OSError as error:
            raise _unwritable(path, error) from None
        yield _Guarded(path, file)
        try:
            stack.close()
        except OSError as error:
            raise _unwritable(path, error) from None


@contextlib.contextmanager
def _direct(path: Path) -> Iterator[Writable]:
    with path.open("wb", buffering=0) as file:
        yield file


@contextlib.contextmanager
def _replacing(target: Path) -> Iterator[Writable]:
    with contextlib.ExitStack() as stack:
        try:
            descriptor, temporary = stack.enter_context(_beside(target))
        except PermissionError:  # a file that may be written to, in a folder that may not
            import shutil
            import tempfile

            with tempfile.TemporaryFile(buffering=0) as spool:
                yield spool
                spool.seek(0)
                with target.open("wb") as file:
                    shutil.copyfileobj(spool, file)
            return
        os.fchmod(descriptor, _mode(target))
        with open(descriptor, "wb", buffering=0, closefd=False) as file:
            yield file
        temporary.replace(target)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: {error.strerror or error}")


def _mode(target: Path) -> int:
    """Permissions of the file, or of a new one."""
    try:
        return stat.S_IMODE(target.stat().st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return _NEW_FILE & ~mask
