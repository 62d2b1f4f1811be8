# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The last handler of every command: an exception becomes one line and an exit status, a traceback only on demand."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Final

import click

from ihsm.cli.streams import STDOUT, is_output_error, silence_stdout
from ihsm.errors import IhsmError, OutputError
from ihsm_abi import logs

FAILURE: Final = 1
INTERRUPTED: Final = 128 + signal.SIGINT
"""As shells have it."""


def exit_status(command: Callable[[], object]) -> int:
    """Run a command; its exit status. Exceptions of any kind are told in one line and end here."""
    try:
        with output_errors():
            try:
                status = command()
            except SystemExit as end:
                status = end.code
            sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BaseException as error:
        return _tell(error)
    if isinstance(status, str):
        _print(status)
        return FAILURE
    return status if isinstance(status, int) else 0


@contextlib.contextmanager
def output_errors() -> Iterator[None]:
    """What cannot be written to standard output raises OutputError, whoever writes."""
    try:
        yield
    except OSError as error:
        if not is_output_error(error):
            raise
        silence_stdout()
        raise OutputError(f"{STDOUT}: {error.strerror}") from error


def _tell(error: BaseException) -> int:
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        silence_stdout()
    if logs.tracebacks_wanted():
        with contextlib.suppress(OSError):
            traceback.print_exception(error)
    if isinstance(error, click.ClickException):
        with contextlib.suppress(OSError):
            error.show()
        return error.exit_code
    if isinstance(error, IhsmError):
        _print(str(error))
        return error.exit_code
    if isinstance(error, OSError) and error.strerror:
        subject = f"{error.filename!r}: " if error.filename is not None else _gone_folder()
        _print(subject + error.strerror)
    elif isinstance(error, MemoryError):
        _print("out of memory")
    else:
        _print(f"unexpected {logs.brief(error)}; with {logs.TRACEBACK_VARIABLE}=1 all of it is shown")
    return FAILURE


def _print(text: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"Error: {text}", err=True)


def _gone_folder() -> str:
    """What an error that names no file is most likely about: a current folder that was removed."""
    try:
        os.getcwd()
    except OSError:
        return "the current folder: "
    return ""
