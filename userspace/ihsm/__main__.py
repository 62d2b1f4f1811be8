# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m ihsm` and the `ihsm` command: both begin here.

Nothing but modules that the interpreter has built in is imported before the first handler stands, so that a broken
installation, an interrupt during the imports, and want of memory end with one line as well.
"""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
"""As type checkers know it; `typing` itself takes more memory than all that is needed here."""

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FunctionType
    from typing import TypeVar

    T = TypeVar("T")

BLAS_VARIABLE = "OPENBLAS_NUM_THREADS"
"""How many threads numpy's linear algebra makes when it is loaded, which then spin for a while and do nothing here."""

STDERR = 2
OUT_OF_MEMORY = b"Error: out of memory\n"
"""Made beforehand."""
INTERRUPTED = 128 + 2
"""As shells have it, of SIGINT."""
STACK_WORDS = 33_000
"""Of 8 bytes: more than the calls of any command need, and nothing until they do."""


def with_room(function: Callable[[], T]) -> Callable[[], T]:
    """Let a function, and all that it calls, have the interpreter's stack in one piece.

    CPython keeps frames in pieces of 16 KiB, and gives a piece back when the first frame in it ends. Where a loop's
    calls happen to begin a piece, each costs two system calls and a page fault: 1400 times while `ihsm info` loads. For
    a frame that claims to need much, the piece is as large as that and almost as much again.
    """
    plain: FunctionType = function  # type: ignore[assignment]
    plain.__code__ = plain.__code__.replace(co_stacksize=STACK_WORDS)
    return function


def run() -> None:
    """Run the command that the process's arguments name; never returns."""
    try:
        status = _run_in_room()
    except MemoryError:
        os.write(STDERR, OUT_OF_MEMORY)
        status = 1
    sys.exit(status)


@with_room
def _run_in_room() -> str | int | None:
    """Have a roomy frame; no exception may come by here, for its traceback would need as much memory once more."""
    return _run()


def _run() -> str | int | None:
    """Run the command; what the process ends with.

    Raises:
        MemoryError: there is too little to load it.
    """
    if BLAS_VARIABLE not in os.environ:
        # For the library alone: programs that we start get `os.environ` as it is.
        os.putenv(BLAS_VARIABLE, "1")
    gc.disable()  # what is loaded stays: to look for garbage in it meanwhile takes 4 % of a short command
    try:
        from ihsm.cli import main
        from ihsm.cli.streams import prepare_process

        prepare_process()
    except KeyboardInterrupt:
        return INTERRUPTED
    except MemoryError:
        raise
    except Exception as error:
        if os.environ.get("IHSM_TRACEBACK"):
            raise
        return f"Error: ihsm cannot start: {type(error).__name__}: {error}"
    try:
        main()
    except SystemExit as end:
        return end.code
    return 0


if __name__ == "__main__":
    run()
