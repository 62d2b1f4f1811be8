# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings as arguments of commands: a file of either form, or - for standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import click

from ihsm.errors import TraceError
from ihsm.trace.files import Recording, read_recording

STDIN: Final = "-"


class RecordingFile(click.Path):
    """Type of an argument that is read when the command begins: the command gets a `Recording`.

    What is no recording, or cannot be read, is wrong usage: exit status 2.
    """

    name = "file"

    def __init__(self) -> None:
        """A file, or - for standard input."""
        super().__init__(exists=True, dir_okay=False, allow_dash=True, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The recording."""
        if isinstance(value, Recording):
            return value
        path = super().convert(value, param, ctx)
        try:
            if str(path) == STDIN:
                return read_recording(sys.stdin.buffer)  # type: ignore[arg-type]
            with Path(str(path)).open("rb") as file:
                return read_recording(file)
        except TraceError as error:
            self.fail(f"{value}: {error}", param, ctx)
        except OSError as error:
            self.fail(f"{value}: {error.strerror or error}", param, ctx)


def warn_of_cut(name: str, recording: Recording) -> None:
    """Say on standard error that a file lacks its end."""
    if recording.cut is not None:
        click.echo(f"{name}: {recording.cut}; {len(recording.records)} records before it are whole", err=True)
