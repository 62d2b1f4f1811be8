# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of the memory and arrays that callers give: read without a copy where that is possible, refused by name."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ihsm.arguments import Octets
from ihsm.errors import ArgumentError, ArgumentTypeError

Buffer = Octets | NDArray[np.uint8]


def readable(operation: str, argument: str, value: Buffer) -> bytes | memoryview:
    """The bytes of whatever has them in a row: bytes, a bytearray, a memoryview, an array.

    Raises:
        ArgumentTypeError: no bytes.
        ArgumentError: not one after the other.
    """
    if type(value) is bytes:
        return value
    return _flat(operation, argument, value)


def frozen(operation: str, argument: str, value: Buffer) -> bytes:
    """The same as it is now, whatever becomes of the caller's memory."""
    data = readable(operation, argument, value)
    return data if type(data) is bytes else bytes(data)


def writable(operation: str, argument: str, value: Buffer, size_bytes: int) -> memoryview:
    """Memory to write exactly `size_bytes` into.

    Raises:
        ArgumentTypeError: no memory, or read-only.
        ArgumentError: another size, or not one byte after the other.
    """
    view = _flat(operation, argument, value)
    if view.readonly:
        raise ArgumentTypeError(operation, argument, f"{type(value).__name__} that cannot be written")
    if len(view) != size_bytes:
        raise ArgumentError(operation, argument, f"{len(view)} bytes, must be {size_bytes}")
    return view


def rows(operation: str, argument: str, value: Any, *, count: int | None = None, width: int | None = None) -> Any:
    """A two-dimensional array of bytes, one row for each message.

    Raises:
        ArgumentTypeError: no array, or not of uint8.
        ArgumentError: another shape.
    """
    if not isinstance(value, np.ndarray):
        raise ArgumentTypeError(operation, argument, f"{type(value).__name__}, must be an array")
    if value.dtype != np.uint8:
        raise ArgumentTypeError(operation, argument, f"array of {value.dtype}, must be of uint8")
    wanted = f"({'n' if count is None else count}, {'m' if width is None else width})"
    fits = value.ndim == 2 and count in (None, value.shape[0]) and width in (None, value.shape[1])
    if not fits:
        raise ArgumentError(operation, argument, f"shape {value.shape}, {wanted} needed")
    return value


def _flat(operation: str, argument: str, value: Buffer) -> memoryview:
    try:
        view = memoryview(cast(bytes, value))
    except TypeError:
        raise ArgumentTypeError(operation, argument, f"{type(value).__name__}, must be bytes") from None
    if view.itemsize != 1:
        raise ArgumentTypeError(operation, argument, f"{type(value).__name__} of larger items than bytes")
    if not view.c_contiguous:
        raise ArgumentError(operation, argument, "its bytes do not lie one after the other")
    return view.cast("B") if view.nbytes else memoryview(b"" if view.readonly else bytearray())
