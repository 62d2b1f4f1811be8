# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Command ids of a queue: each is free, or in use from its submission to its completion (spec 01 §5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ihsm import _native
from ihsm._native import ffi


class CommandIds:
    """The ids 0 to `count - 1`. The caller gives back only what it took, and each id once."""

    __slots__ = ("_count", "_ids", "pointer")

    def __init__(self, count: int) -> None:
        """All are free."""
        self._count = count
        # A stack: the free ones lie in front. The id used last is used next, while its buffers are in the cache.
        self._ids = np.arange(count, dtype=np.int64)
        self.pointer: _native.ihsm_ids_pointer = ffi.new("struct ihsm_ids *")
        """The ids as C sees them; valid as long as this object is there."""
        self.pointer.ids = ffi.cast("int64_t *", self._ids.ctypes.data)
        self.pointer.count = self.pointer.free = count

    def restart(self) -> None:
        """Every id is free again: the device has forgotten its commands."""
        self._ids[:] = np.arange(self._count)
        self.pointer.free = self._count

    @property
    def free(self) -> int:
        """How many are free."""
        return self.pointer.free

    @property
    def used(self) -> int:
        """How many are in use."""
        return self._count - self.pointer.free

    @property
    def next(self) -> int | None:
        """The one that `take` takes; None if all are in use."""
        free = self.pointer.free
        return self.pointer.ids[free - 1] if free else None

    def take(self) -> int:
        """Take a free id; there must be one."""
        self.pointer.free = free = self.pointer.free - 1
        return self.pointer.ids[free]

    def take_many(self, count: int) -> NDArray[np.int64]:
        """Take `count` free ids; there must be so many. The array is valid until ids are given back."""
        self.pointer.free = free = self.pointer.free - count
        return self._ids[free : free + count]

    def give_back(self, cid: int) -> None:
        """An id is free again."""
        free = self.pointer.free
        self.pointer.ids[free] = cid
        self.pointer.free = free + 1

    def give_back_many(self, cids: NDArray[np.int64]) -> None:
        """Several ids are free again."""
        free = self.pointer.free
        self._ids[free : free + len(cids)] = cids
        self.pointer.free = free + len(cids)
