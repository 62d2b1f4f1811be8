# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Batches: whose a command id is, and at which position of the batch's result its completion belongs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ihsm.driver.submission import Submission


@dataclass(slots=True)
class _Part:
    """Commands of a batch that were written to the ring together."""

    submission: Submission
    rows: NDArray[np.uint64]
    """Completions of the whole batch as words, one row each."""
    remaining: int


class Batches:
    """What is outstanding of all batches of a queue. The part of a batch that a command belongs to has a number."""

    def __init__(self, entries: int) -> None:
        """For a ring of `entries` slots: ids below that, and up to so many completions at once."""
        self._entries = entries
        self._parts: dict[int, _Part] = {}
        self._last = 0
        self._order = np.arange(entries, dtype=np.int64)
        self._seen = np.zeros(entries, np.int64)
        self._part_of = np.zeros(entries, np.int64)
        """0: the id belongs to no batch."""
        self._position_of = np.zeros(entries, np.int64)

    def add(self, submission: Submission, rows: NDArray[np.uint64], cids: NDArray[np.int64], position: int) -> None:
        """Commands with these ids were written: the completion of the first goes to `rows[position]`, and so on."""
        self._last += 1
        self._parts[self._last] = _Part(submission, rows, len(cids))
        self._part_of[cids] = self._last
        self._position_of[cids] = self._order[: len(cids)] + position

    def runs(self, cids: NDArray[np.int64]) -> Iterator[slice]:
        """The completions cut where one part ends and another begins: a device in order gives few pieces."""
        start = 0
        if int(cids.max()) < self._entries:
            for end in (np.flatnonzero(np.diff(self._part_of[cids])) + 1).tolist():
                yield slice(start, end)
                start = end
        yield slice(start, len(cids))

    def take(self, cids: NDArray[np.int64], rows: NDArray[np.uint64]) -> Submission | None:
        """Store completions that all belong to one part; None, and nothing done, if they do not.

        No id may come twice: that is a device's mistake, and only the first of the two counts.
        """
        if int(cids.max()) >= self._entries:
            return None
        number = int(self._part_of[cids[0]])
        order = self._order[: len(cids)]
        self._seen[cids] = order
        if not number or not (self._part_of[cids] == number).all() or not (self._seen[cids] == order).all():
            return None
        self._part_of[cids] = 0
        return self._store(number, self._position_of[cids], rows, len(cids))

    def take_one(self, cid: int, raw: bytes) -> Submission | None:
        """Store one completion; None if its id belongs to no batch."""
        number = int(self._part_of[cid]) if cid < self._entries else 0
        if not number:
            return None
        self._part_of[cid] = 0
        return self._store(number, int(self._position_of[cid]), np.frombuffer(raw, np.uint64), 1)

    def _store(
        self, number: int, positions: NDArray[np.int64] | int, rows: NDArray[np.uint64], count: int
    ) -> Submission:
        part = self._parts[number]
        part.rows[positions] = rows
        part.remaining -= count
        if not part.remaining:
            del self._parts[number]
        return part.submission

    def live(self) -> list[Submission]:
        """Batches with outstanding commands, each once."""
        return list({id(part.submission): part.submission for part in self._parts.values()}.values())

    def clear(self) -> None:
        """Nothing is outstanding any more."""
        self._parts.clear()
        self._part_of[:] = 0
