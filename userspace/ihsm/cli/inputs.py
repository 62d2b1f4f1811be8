# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What commands read: a file or standard input, to its end before any device is opened, so that two in a pipe work.

What cannot be read again, standard input and pipes, is kept meanwhile: in memory up to SPOOL_BYTES, beyond that in a
temporary file that has no name.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, Protocol

import click

from ihsm.errors import IhsmError, OutputError

STDIN: Final = "-"
SPOOL_BYTES: Final = 8 << 20
BLOCK_BYTES: Final = 1 << 20
_CLAIM: Final = "ihsm.stdin"


class Source(Protocol):
    """What can be read piece by piece into memory that is there."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill a part of the buffer; 0 at the end."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place, and say where it is."""


class InputError(IhsmError, OSError):
    """A command's input cannot be read."""

    exit_code = 2


def input_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """The argument FILE: the command gets `file: str`, "-" for standard input."""
    return click.argument(
        "file", metavar="[FILE]", type=click.Path(exists=True, dir_okay=False, allow_dash=True), default=STDIN
    )(function)


def claim_stdin(option: str) -> None:
    """An option reads standard input, which no input can be then."""
    click.get_current_context().meta[_CLAIM] = option


def blocks(name: str) -> Iterator[bytes]:
    """The bytes of an input, a block at a time.

    Raises:
        InputError: it cannot be read.
    """
    with _opened(name) as file:
        while block := _read(name, file, BLOCK_BYTES):
            yield block


def whole(name: str, longest: int) -> bytes:
    """All bytes of an input, at most `longest`; InputError if it has more, or cannot be read."""
    with _opened(name) as file:
        parts, size = [], 0
        while block := _read(name, file, BLOCK_BYTES):
            parts.append(block)
            size += len(block)
            if size > longest:
                raise InputError(f"{_shown(name)}: longer than {longest} bytes")
    return b"".join(parts)


class _Named:
    """A file whose errors name it."""

    def __init__(self, name: str, file: Any) -> None:
        self._name = name
        self._file = file

    def readinto(self, buffer: Any, /) -> int | None:
        try:
            count: int | None = self._file.readinto(buffer)
        except OSError as error:
            raise _unreadable(self._name, error) from None
        return count

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return int(self._file.seek(offset, whence))
        except OSError as error:
            raise _unreadable(self._name, error) from None


@contextlib.contextmanager
def seekable(name: str) -> Iterator[Source]:
    """An input that is there to its end; InputError if it cannot be read.

    Raises:
        OutputError: there is no room for the temporary file.
    """
    with _opened(name) as file:
        if name != STDIN and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            yield _Named(name, file)
            return
        with tempfile.SpooledTemporaryFile(max_size=SPOOL_BYTES) as spool:
            while block := _read(name, file, BLOCK_BYTES):
                try:
                    spool.write(block)
                except OSError as error:
                    folder = tempfile.gettempdir()
                    raise OutputError(
                        f"{folder}: {error.strerror or error}: {_shown(name)} is kept there until its end; TMPDIR "
                        "names another folder"
                    ) from None
            spool.seek(0)
            yield spool


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name != STDIN:
        try:
            file = open(name, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise _unreadable(name, error) from None
        with file:
            yield file
        return
    claimed = click.get_current_context().meta.get(_CLAIM)
    if claimed:
        raise click.UsageError(f"standard input is read by {claimed}: name the input's FILE")
    yield sys.stdin.buffer


def _read(name: str, file: BinaryIO, size: int) -> bytes:
    try:
        return file.read(size)
    except OSError as error:
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: OSError) -> InputError:
    return InputError(f"{_shown(name)}: {error.strerror or error}")


def _shown(name: str) -> str:
    return "standard input" if name == STDIN else os.fsdecode(name)
