# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Batches by themselves: every completion at its position, and nothing stored that is not certain to belong there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ihsm.driver.batches import Batches
from ihsm.driver.submission import Submission


def submission(count: int) -> Submission:
    queue: Any = None
    return Submission(queue, count, 0.0)


def ids(*numbers: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array(numbers, np.int64)


def rows(*values: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Completions of two words each."""
    return np.array([(value, value) for value in values], np.uint64).reshape(len(values), 2)


def test_completions_go_to_the_positions_of_their_commands() -> None:
    batches, mine, result = Batches(16), submission(4), rows(0, 0, 0, 0)
    batches.add(mine, result, ids(7, 3, 9, 1), 0)
    assert batches.take(ids(1, 3), rows(40, 20)) is mine
    assert result[:, 0].tolist() == [0, 20, 0, 40]
    assert batches.take_one(9, rows(30).tobytes()) is mine
    assert batches.live() == [mine]
    assert batches.take_one(7, rows(10).tobytes()) is mine
    assert result.tolist() == [[10, 10], [20, 20], [30, 30], [40, 40]]
    assert batches.live() == []


def test_parts_of_a_batch_follow_each_other() -> None:
    batches, mine, result = Batches(4), submission(5), rows(0, 0, 0, 0, 0)
    batches.add(mine, result, ids(0, 1, 2), 0)
    assert batches.take(ids(0, 1), rows(1, 2)) is mine
    batches.add(mine, result, ids(0, 1), 3)
    assert batches.live() == [mine]
    assert batches.take(ids(1, 0), rows(5, 4)) is mine
    assert batches.live() == [mine]
    assert batches.take_one(2, rows(3).tobytes()) is mine
    assert result[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert batches.live() == []


@pytest.mark.parametrize(
    "cids",
    [
        pytest.param(ids(0, 4), id="of two batches"),
        pytest.param(ids(0, 2), id="of none"),
        pytest.param(ids(2, 0), id="of none first"),
        pytest.param(ids(0, 0), id="twice"),
        pytest.param(ids(0, 1, 0, 1, 0, 1, 0, 1), id="a whole ring of two ids"),
        pytest.param(ids(0, 8), id="beyond the last id"),
        pytest.param(ids(0, 0xFFFF), id="far beyond"),
    ],
)
def test_completions_that_do_not_all_belong_to_one_part_are_not_stored(cids: np.ndarray[Any, Any]) -> None:
    batches, first, second = Batches(8), rows(0, 0), rows(0)
    mine, other = submission(2), submission(1)
    batches.add(mine, first, ids(0, 1), 0)
    batches.add(other, second, ids(4), 0)
    assert batches.take(cids, rows(*range(11, 11 + len(cids)))) is None
    assert not first.any()
    assert not second.any()
    assert batches.take(ids(1, 0), rows(2, 1)) is mine
    assert batches.take_one(4, rows(3).tobytes()) is other


@pytest.mark.parametrize("cid", [2, 7, 8, 0xFFFF])
def test_an_id_of_no_batch_has_no_submission(cid: int) -> None:
    batches, result = Batches(8), rows(0)
    batches.add(submission(1), result, ids(0), 0)
    assert batches.take_one(cid, rows(9).tobytes()) is None
    assert not result.any()


def test_an_id_is_completed_once() -> None:
    batches, mine = Batches(8), submission(2)
    batches.add(mine, rows(0, 0), ids(0, 1), 0)
    assert batches.take_one(0, rows(1).tobytes()) is mine
    assert batches.take_one(0, rows(2).tobytes()) is None
    assert batches.take(ids(1, 0), rows(1, 2)) is None


def test_runs_are_cut_where_the_part_changes() -> None:
    batches = Batches(16)
    batches.add(submission(3), rows(0, 0, 0), ids(0, 1, 2), 0)
    batches.add(submission(2), rows(0, 0), ids(5, 6), 0)

    def pieces(*cids: int) -> list[list[int]]:
        return [list(cids[run]) for run in batches.runs(ids(*cids))]

    assert pieces(0, 1, 2, 5, 6, 9) == [[0, 1, 2], [5, 6], [9]]
    assert pieces(2, 5, 1) == [[2], [5], [1]]
    assert pieces(1) == [[1]]
    assert pieces(0, 5, 16) == [[0, 5, 16]]


def test_after_clearing_no_id_belongs_to_a_batch() -> None:
    batches = Batches(8)
    batches.add(submission(2), rows(0, 0), ids(0, 1), 0)
    batches.clear()
    assert batches.live() == []
    assert batches.take_one(0, rows(1).tobytes()) is None
