# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The size of our terminal, which a guest's has too."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

_USUAL = (24, 80)


def terminal_size() -> tuple[int, int]:
    """Rows and columns of the terminal at our output; 24 and 80 where there is none or it has no size."""
    for stream in (sys.__stdout__, sys.__stderr__, sys.__stdin__):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            size = os.get_terminal_size(stream.fileno())  # type: ignore[union-attr]
            if size.lines and size.columns:
                return size.lines, size.columns
    return _USUAL


@contextlib.contextmanager
def follow_size(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell the guest's init of each new size of our terminal, within the block; in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def changed(number: int, frame: object) -> None:
        rows, columns = terminal_size()
        tell(f"size {rows} {columns}")

    before = signal.signal(signal.SIGWINCH, changed)
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
