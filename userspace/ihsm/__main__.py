# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m ihsm` and the `ihsm` command: both begin here.

Nothing but the standard library is imported before the first handler stands, so that a broken installation and an
interrupt during the imports end with one line as well.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FunctionType

BLAS_VARIABLE = "OPENBLAS_NUM_THREADS"
"""How many threads numpy's linear algebra makes when it is loaded, which then spin for a while and do nothing here."""

STACK_WORDS = 33_000
"""Of 8 bytes: more than the calls of any command need, and nothing until they do."""


def with_room(function: Callable[[], None]) -> Callable[[], None]:
    """Let a function, and all that it calls, have the interpreter's stack in one piece.

    CPython keeps frames in pieces of 16 KiB, and gives a piece back when the first frame in it ends. Where a loop's
    calls happen to begin a piece, each costs two system calls and a page fault: 1400 times while `ihsm info` loads. For
    a frame that claims to need much, the piece is as large as that and almost as much again.
    """
    plain: FunctionType = function  # type: ignore[assignment]
    plain.__code__ = plain.__code__.replace(co_stacksize=STACK_WORDS)
    return function


@with_room
def run() -> None:
    """Run the command that the process's arguments name; never returns."""
    if BLAS_VARIABLE not in os.environ:
        # For the library alone: programs that we start get `os.environ` as it is.
        os.putenv(BLAS_VARIABLE, "1")
    gc.disable()  # what is loaded stays: to look for garbage in it meanwhile takes 4 % of a short command
    try:
        from ihsm.cli import main
        from ihsm.cli.streams import prepare_process

        prepare_process()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if os.environ.get("IHSM_TRACEBACK"):
            raise
        sys.exit(f"Error: ihsm cannot start: {type(error).__name__}: {error}")
    main()


if __name__ == "__main__":
    run()
