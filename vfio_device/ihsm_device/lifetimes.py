# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of the C library that goes with the Python object it belongs to."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any


def free_with(owner: object, free: Callable[..., object], *arguments: Any) -> None:
    """Call `free(*arguments)` when `owner` is gone; the arguments live until then and must not refer to it.

    Nothing is freed when the interpreter ends: threads of the device may be in C until the process is gone, whatever
    its program forgot to close.
    """
    weakref.finalize(owner, free, *arguments).atexit = False
