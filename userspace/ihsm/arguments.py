# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of what callers give: an argument that cannot be is refused before anything is done, by name."""

from __future__ import annotations

from operator import index

from ihsm.errors import ArgumentError, ArgumentTypeError

Octets = bytes | bytearray | memoryview


def octets(operation: str, argument: str, value: Octets | None, size: int | None = None) -> bytes:
    """The bytes given, which must be `size` bytes where that is not None.

    Raises:
        ArgumentTypeError: something else than bytes, a bytearray or a memoryview.
        ArgumentError: another length.
    """
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ArgumentTypeError(operation, argument, f"{type(value).__name__}, must be bytes")
    data = value if isinstance(value, bytes) else bytes(value)
    if size is not None and len(data) != size:
        raise ArgumentError(operation, argument, f"{len(data)} bytes, must be {size}")
    return data


def integer(operation: str, argument: str, value: int, low: int, high: int) -> int:
    """The number given, `low` to `high`.

    Raises:
        ArgumentTypeError: no whole number.
        ArgumentError: out of range.
    """
    try:
        number = index(value)
    except TypeError:
        raise ArgumentTypeError(operation, argument, f"{type(value).__name__}, must be a whole number") from None
    if not low <= number <= high:
        raise ArgumentError(operation, argument, f"{number}, {low} to {high} possible")
    return number
