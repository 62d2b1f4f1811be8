# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the arrays that batches are given: each becomes one column of the entries, or is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ihsm.errors import ArgumentError, ArgumentTypeError


def whole_numbers(operation: str, argument: str, values: ArrayLike, dtype: Any, count: int | None = None) -> Any:
    """An array of `dtype`, an unsigned type; `count` items where that is not None and no scalar is given.

    Raises:
        ArgumentTypeError: no whole numbers.
        ArgumentError: a number that does not fit the type, or another shape.
    """
    array = _integers(operation, argument, values)
    limit = int(np.iinfo(dtype).max)
    if array.size and not (int(array.min()) >= 0 and int(array.max()) <= limit):
        raise ArgumentError(operation, argument, f"{array.min()} to {array.max()}, 0 to {limit:#x} possible")
    if count is not None and array.shape not in ((), (count,)):
        raise ArgumentError(operation, argument, f"shape {array.shape}, ({count},) or a scalar needed")
    return array.astype(dtype)


def octet_rows(operation: str, argument: str, values: ArrayLike, count: int, width: int) -> NDArray[np.uint8]:
    """Rows of `width` bytes, one for each of `count` commands, or one for all.

    Raises:
        ArgumentTypeError: no whole numbers.
        ArgumentError: a number that is no byte, or another shape.
    """
    rows: NDArray[np.uint8] = whole_numbers(operation, argument, values, np.uint8)
    if rows.shape not in ((width,), (count, width)):
        raise ArgumentError(operation, argument, f"shape {rows.shape}, ({count}, {width}) or ({width},) needed")
    return rows


def _integers(operation: str, argument: str, values: ArrayLike) -> NDArray[Any]:
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, OverflowError) as error:  # rows of unequal length, for one
        raise ArgumentError(operation, argument, f"is no array: {error}") from None
    if array.size and array.dtype.kind not in "ui":
        raise ArgumentTypeError(operation, argument, f"array of {array.dtype}, whole numbers needed")
    return array
