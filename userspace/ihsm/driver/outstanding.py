# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Submissions that are waited for: which completion belongs to which, and what ends them without one.

Everything happens under the queue's lock; submissions that are done are returned, to be announced without it.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ihsm.driver.batches import Batches
from ihsm.driver.command_ids import CommandIds
from ihsm.driver.rings import RingFormat
from ihsm.driver.submission import Submission
from ihsm.errors import IhsmError
from ihsm_abi.entries import RecordCodec

_log = logging.getLogger(__name__)


class Outstanding:
    """Commands from their submission to their completion, single ones and batches."""

    def __init__(self, name: str, ring: RingFormat, entries: int) -> None:
        """For a ring of `entries` slots, which `entries - 1` commands fill; `name` is the queue's in messages."""
        self.ids = CommandIds(entries - 1)
        self.strays = 0
        """Completions with a command id that was not outstanding."""
        self._name = name
        codec = RecordCodec(ring.cqe)
        self.fields_of = codec.unpack
        """A completion's fields, of its bytes."""
        self._cid_index = codec.names.index(ring.cid)
        assert ring.cqe.fields is not None
        self._cid_offset = ring.cqe.fields[ring.cid][1]
        self._batches = Batches(entries)
        self._singles: list[Submission | None] = [None] * (entries - 1)
        self._single_count = 0

    def begin(self, cid: int, submission: Submission) -> None:
        """A single command was written with an id taken before."""
        self._singles[cid] = submission
        self._single_count += 1

    def begin_batch(self, count: int, submission: Submission, rows: NDArray[np.uint64], position: int) -> Any:
        """Take ids for commands of a batch whose completions go to `rows` from `position` on; the ids, for now."""
        cids = self.ids.take_many(count)
        self._batches.add(submission, rows, cids, position)
        return cids

    @property
    def are_batches(self) -> bool:
        """Whether no single command is outstanding."""
        return not self._single_count

    def complete(self, raw: bytes, done: list[Submission]) -> Any:
        """Account for a completion; a submission thereby done is appended to `done`. The completion's fields."""
        record = self.fields_of(raw)
        cid: int = record[self._cid_index]
        submission = self._singles[cid] if cid < len(self._singles) else None
        if submission is not None:
            self._singles[cid] = None
            self._single_count -= 1
            # One that had timed out before has been announced with that error: its result is nobody's any more.
            if submission.error is None:
                try:
                    assert submission.collect is not None
                    submission.outcome = submission.collect(cid, record)
                except IhsmError as failure:
                    submission.error = failure
        else:
            submission = self._batches.take_one(cid, raw)
            if submission is None:
                self.strays += 1
                _log.warning("%s: completion with command id %d, which is not outstanding", self._name, cid)
                return record
        self.ids.give_back(cid)
        _finish(submission, 1, done)
        return record

    def complete_many(self, rows: NDArray[np.uint64], done: list[Submission]) -> Any:
        """Account for completions given as words, oldest first; like `complete`, of the newest."""
        cids = np.ndarray(len(rows), np.uint16, rows, self._cid_offset, (rows.strides[0],)).astype(np.int64)
        for run in self._batches.runs(cids):
            submission = self._batches.take(cids[run], rows[run])
            if submission is None:
                for row in rows[run]:
                    self.complete(row.tobytes(), done)
            else:
                self.ids.give_back_many(cids[run])
                _finish(submission, run.stop - run.start, done)
        return self.fields_of(rows[-1].tobytes())

    def fail(self, error: IhsmError, due_before: float = float("inf")) -> list[Submission]:
        """Fail submissions with a deadline before a value of `time.monotonic`; those that were not done yet.

        Their command ids stay in use until the device completes or forgets them.
        """
        failed = [
            submission for submission in self.live() if not submission.done() and submission.deadline < due_before
        ]
        for submission in failed:
            submission.error = error
        return failed

    def forget(self) -> None:
        """The device has forgotten all commands: it no longer uses what they held, and all ids are free."""
        for submission in self.live():
            submission.let_go()
        self._batches.clear()
        self._singles = [None] * len(self._singles)
        self._single_count = 0
        self.ids.restart()

    def live(self) -> list[Submission]:
        """Submissions with outstanding commands."""
        return [*self._batches.live(), *(single for single in self._singles if single is not None)]


def _finish(submission: Submission, count: int, done: list[Submission]) -> None:
    submission.remaining -= count
    if submission.remaining == 0:
        submission.let_go()
        done.append(submission)
