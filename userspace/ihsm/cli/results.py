# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where commands write what they make: `-o FILE`, which appears complete or not at all, or standard output."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import click

from ihsm.cli.output_files import OutputFile, Writable, writing

TO_STDOUT: Final = "-"
BINARY_TO_TERMINAL: Final = "the result is binary and would go to the terminal: name a file with -o, or - to insist"


class ResultFile(OutputFile):
    """Type of `-o`: a file as `OutputFile`, or - for standard output even where that is a terminal."""

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        return Path(TO_STDOUT) if os.fspath(value) == TO_STDOUT else super().convert(value, param, ctx)


def output_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """The option -o: the command gets `output: Path | None`."""
    return click.option(
        "-o",
        "--output",
        type=ResultFile(),
        metavar="FILE",
        help="Write here instead of to standard output; - is standard output, be it a terminal.",
    )(function)


def refuse_terminal(output: Path | None) -> None:
    """Refuse to write binary to a terminal, unless it was asked for by -o -; raises click.UsageError."""
    if output is None and sys.stdout.isatty():
        raise click.UsageError(BINARY_TO_TERMINAL)


def write_result(output: Path | None, data: bytes) -> None:
    """Write all of a result; OutputError if that fails."""
    with result_stream(output) as stream:
        stream.write(data)


@contextlib.contextmanager
def result_stream(output: Path | None) -> Iterator[Writable]:
    """Write a result piece by piece; a file has its name only when the block has ended well. OutputError."""
    if output is None or os.fspath(output) == TO_STDOUT:
        stream = sys.stdout.buffer
        yield stream
        stream.flush()
    else:
        with writing(output) as file:
            yield file
