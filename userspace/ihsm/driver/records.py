# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""One queue entry at a time: `struct` codecs derived from the dtypes of `ihsm_abi`, which remain the only layout."""

from __future__ import annotations

from collections import namedtuple
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ihsm.errors import ArgumentError, ArgumentTypeError

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class RecordCodec:
    """Packs and unpacks one record; fields in the dtype's order, a nested record contributes its own."""

    def __init__(self, dtype: np.dtype[np.void]) -> None:
        """Derive the format; byte arrays are given as `bytes`, everything else as int."""
        self.names: list[str] = []
        parts: list[tuple[int, str, int]] = []
        self._walk(dtype, 0, "", parts)
        position, text = 0, "<"
        for offset, code, size in sorted(parts):
            text += f"{offset - position}x{code}"
            position = offset + size
        self._struct = Struct(text + f"{dtype.itemsize - position}x")
        order = sorted(range(len(parts)), key=lambda index: parts[index][0])
        if order != list(range(len(parts))):
            raise ArgumentError("RecordCodec", "dtype", f"fields of {dtype} are not in the order of their offsets")
        self.pack = self._struct.pack
        self._type: Any = namedtuple("Record", self.names)  # type: ignore[misc]

    def unpack(self, record: bytes) -> Any:
        """Named tuple of a record's fields."""
        return self._type._make(self._struct.unpack(record))

    def _walk(self, dtype: np.dtype[np.void], base: int, prefix: str, parts: list[tuple[int, str, int]]) -> None:
        assert dtype.fields is not None
        for name in dtype.names or ():
            field, offset = dtype.fields[name][:2]
            if field.fields is not None:
                self._walk(field, base + offset, f"{prefix}{name}__", parts)
                continue
            code = f"{field.itemsize}s" if field.subdtype is not None else _CODES[field.itemsize]
            parts.append((base + offset, code, field.itemsize))
            self.names.append(prefix + name)


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
