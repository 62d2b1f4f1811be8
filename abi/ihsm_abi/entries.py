# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Single queue entries: a `struct.Struct` for chosen fields of a declared entry, far cheaper than numpy scalars."""

import struct
from typing import Any

import numpy as np

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
