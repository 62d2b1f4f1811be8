# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Command ids of a queue: each is free, or in use from its submission to its completion (spec 01 §5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class CommandIds:
    """The ids 0 to `count - 1`. The caller gives back only what it took, and each id once."""

    __slots__ = ("_count", "_ids", "free")

    def __init__(self, count: int) -> None:
        """All are free."""
        self._count = count
        self.restart()

    def restart(self) -> None:
        """Every id is free again: the device has forgotten its commands."""
        # A stack: the free ones lie in front. The id used last is used next, while its buffers are in the cache.
        self._ids = np.arange(self._count, dtype=np.int64)
        self.free = self._count
        """How many are free."""

    @property
    def used(self) -> int:
        """How many are in use."""
        return self._count - self.free

    def take(self) -> int:
        """Take a free id; there must be one."""
        self.free -= 1
        return self._ids.item(self.free)

    def take_many(self, count: int) -> NDArray[np.int64]:
        """Take `count` free ids; there must be so many. The array is valid until ids are given back."""
        self.free -= count
        return self._ids[self.free : self.free + count]

    def give_back(self, cid: int) -> None:
        """An id is free again."""
        self._ids[self.free] = cid
        self.free += 1

    def give_back_many(self, cids: NDArray[np.int64]) -> None:
        """Several ids are free again."""
        self._ids[self.free : self.free + len(cids)] = cids
        self.free += len(cids)
