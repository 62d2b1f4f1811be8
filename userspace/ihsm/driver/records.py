# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Queue entries as rows of words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ihsm.errors import ArgumentError, ArgumentTypeError


def as_rows(entries: NDArray[np.void], entry_bytes: int) -> NDArray[np.uint64]:
    """The same memory as a matrix of 64-bit words, one row per entry: whole entries are then copied at memory speed.

    Raises:
        ArgumentError, ArgumentTypeError: no such array, or its items do not have `entry_bytes` bytes.
    """
    if not isinstance(entries, np.ndarray):
        raise ArgumentTypeError("batch", "entries", f"{type(entries).__name__}, must be an array")
    if entries.dtype.itemsize != entry_bytes or entries.ndim != 1:
        problem = f"one-dimensional array of {entry_bytes}-byte entries expected, got {entries.ndim} of {entries.dtype}"
        raise ArgumentError("batch", "entries", problem)
    return np.ascontiguousarray(entries).view(np.uint64).reshape(len(entries), entry_bytes // 8)
