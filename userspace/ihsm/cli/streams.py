# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The process's standard streams: there, writable, and bytes of others that are no text pass through them."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import logging
import os
import select
import stat
import sys
import threading
from typing import Final, NoReturn

from ihsm.errors import OutputError

_log = logging.getLogger(__name__)

STDOUT: Final = "standard output"
STDOUT_FD: Final = 1
BYTES_OR_ESCAPES: Final = "ihsm-bytes-or-escapes"
"""Name of an error handler for text streams, see `bytes_or_escapes`."""
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF
OUTPUT_ERRNOS: Final = frozenset({errno.ENOSPC, errno.EPIPE, errno.EDQUOT, errno.EFBIG})
"""What only writing fails with; files and sockets that we write to have errors with types or names of their own."""


def prepare_process() -> None:
    """Make the streams fit for all commands, and let no thread end with a traceback on standard error.

    A standard output that cannot be written ends the process here, before any work: one line, exit status 2.
    """
    problem = stdout_problem()
    open_missing()
    codecs.register_error(BYTES_OR_ESCAPES, bytes_or_escapes)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=BYTES_OR_ESCAPES)
    threading.excepthook = _thread_failed
    sys.unraisablehook = _unraisable
    if problem:
        _refuse(OutputError(f"{STDOUT}: {problem}"))


def _refuse(error: OutputError) -> NoReturn:
    silence_stdout()
    with contextlib.suppress(OSError):
        print(f"Error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


def stdout_problem() -> str | None:
    """Why nothing can be written to standard output, in the system's words; None if nothing is known against it."""
    try:
        if not stat.S_ISSOCK(os.fstat(STDOUT_FD).st_mode):
            # Nothing is written; a full device and a descriptor that is for reading say so all the same. A socket
            # could take it for an empty message.
            os.write(STDOUT_FD, b"")
        poller = select.poll()
        poller.register(STDOUT_FD, 0)
        if any(events & select.POLLERR for _, events in poller.poll(0)):
            return os.strerror(errno.EPIPE)
    except OSError as error:
        return "closed" if sys.stdout is None else error.strerror or str(error)
    return None


def open_missing() -> None:
    """Put /dev/null in the place of closed standard streams: the next file opened would get their numbers.

    Whoever reads a closed standard input gets an error, for it is no empty one: nothing is signed that nobody gave.
    """
    for number, name, mode in ((0, "stdin", "r"), (STDOUT_FD, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def silence_stdout() -> None:
    """Let what is still in the buffers go nowhere: the interpreter flushes them at its end, and would complain."""
    with contextlib.suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, sys.stdout.fileno())
        os.close(descriptor)


def is_output_error(error: OSError) -> bool:
    """Whether an error is that of a write to a standard stream."""
    return error.filename is None and error.errno in OUTPUT_ERRNOS


def bytes_or_escapes(error: UnicodeError) -> tuple[str | bytes, int]:
    """Error handler of encoders: bytes that Python decoded as surrogates are bytes again, all else an escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    out = bytearray()
    for character in error.object[error.start : error.end]:
        code = ord(character)
        if _FIRST_BYTE <= code <= _LAST_BYTE:
            out.append(code & 0xFF)
        else:
            out += character.encode("ascii", "backslashreplace")
    return bytes(out), error.end


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_value is not None and failure.exc_type is not SystemExit:
        name = failure.thread.name if failure.thread else "?"
        _log.error("thread %s ended", name, exc_info=failure.exc_value)


def _unraisable(failure: sys.UnraisableHookArgs) -> None:
    _log.warning("%s: %r", failure.err_msg or "exception ignored in", failure.object, exc_info=failure.exc_value)
