# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory for data of AES commands: any of ours does, for the driver makes it the device's for the time of a command."""

from __future__ import annotations

from typing import Final

import numpy as np

from ihsm.arguments import integer
from ihsm.errors import ArenaFullError

_ALIGNMENT: Final = 64
_MOST_BYTES: Final = 1 << 47
"""More than a process can have."""


class NodeBuffer:
    """Bytes of our own; their I/O address is where they lie."""

    __slots__ = ("iova", "view")

    def __init__(self, size_bytes: int, alignment: int) -> None:
        """Zeroed; MemoryError if there are not so many."""
        room = np.zeros(size_bytes + alignment, np.uint8)
        start = -room.ctypes.data % alignment
        self.view = room[start : start + size_bytes]
        self.iova = room.ctypes.data + start

    def release(self) -> None:
        """Let go of them."""
        self.view = np.empty(0, np.uint8)


class NodeMemory:
    """Where buffers come from."""

    def allocate(self, size_bytes: int, alignment: int = _ALIGNMENT) -> NodeBuffer:
        """A buffer.

        Raises:
            ArenaFullError: there is no memory.
            ArgumentError, ArgumentTypeError: no size or alignment.
        """
        size_bytes = integer("allocate", "size_bytes", size_bytes, 1, _MOST_BYTES)
        alignment = integer("allocate", "alignment", alignment, 1, 1 << 30)
        try:
            return NodeBuffer(size_bytes, alignment)
        except MemoryError:
            raise ArenaFullError(f"no memory for a buffer of {size_bytes} bytes") from None
