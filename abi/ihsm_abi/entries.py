# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Single records: `struct` codecs derived from the declared dtypes, far cheaper than numpy scalars."""

from __future__ import annotations

import struct
from collections import namedtuple
from typing import Any

import numpy as np

_NEW: Any = tuple.__new__
"""What `_make` of a named tuple does, without its own look at the number of fields."""
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


def reader(entry: np.dtype[Any], *names: str) -> struct.Struct:
    """Little-endian layout whose `unpack` takes an entry's bytes and gives the named unsigned fields, in entry order.

    ValueError if a name is no unsigned field of the entry, or the names are not in the order of their offsets.
    """
    pieces, end = ["<"], 0
    for name in names:
        if entry.fields is None or name not in entry.fields:
            raise ValueError(f"{name} is no field of the entry")
        dtype, offset = entry.fields[name][:2]
        if dtype.kind != "u" or offset < end:
            raise ValueError(f"{name} at {offset} is no unsigned field behind byte {end}")
        pieces.append(f"{offset - end}x{_CODES[dtype.itemsize]}")
        end = offset + dtype.itemsize
    pieces.append(f"{entry.itemsize - end}x")
    return struct.Struct("".join(pieces))


def field_slice(entry: np.dtype[np.void], name: str) -> slice:
    """Where a field lies in the bytes of an entry."""
    assert entry.fields is not None
    dtype, offset = entry.fields[name][:2]
    return slice(offset, offset + dtype.itemsize)


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
        self._struct = struct.Struct(text + f"{dtype.itemsize - position}x")
        order = sorted(range(len(parts)), key=lambda index: parts[index][0])
        if order != list(range(len(parts))):
            raise ValueError(f"fields of {dtype} are not in the order of their offsets")
        self.pack = self._struct.pack
        self._type: Any = namedtuple("Record", self.names)  # type: ignore[misc]

    def unpack(self, record: bytes | bytearray | memoryview) -> Any:
        """Named tuple of a record's fields."""
        return _NEW(self._type, self._struct.unpack(record))

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
