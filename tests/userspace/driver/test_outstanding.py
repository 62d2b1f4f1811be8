# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What is waited for: every completion ends its own command, and a failure leaves ids and buffers to the device."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest

from ihsm.bus import DmaArena
from ihsm.driver.outstanding import Outstanding
from ihsm.driver.records import as_rows
from ihsm.driver.rings import ADMIN_RING
from ihsm.driver.submission import Submission
from ihsm.errors import AdminCommandError, CommandTimeoutError, QueueClosedError
from ihsm_abi.admin import ADMIN_CQE

ENTRIES = 8


def outstanding() -> Outstanding:
    return Outstanding("admin queue 0", ADMIN_RING, ENTRIES)


def completion(cid: int, dw0: int = 0, sqhd: int = 0) -> bytes:
    return completions((cid, dw0), sqhd=sqhd).tobytes()


def completions(*pairs: tuple[int, int], sqhd: int = 0) -> Any:
    cqes = np.zeros(len(pairs), ADMIN_CQE)
    cqes["cid"], cqes["dw0"] = [cid for cid, _ in pairs], [dw0 for _, dw0 in pairs]
    cqes["sqhd"] = sqhd
    return as_rows(cqes, ADMIN_CQE.itemsize)


def single(table: Outstanding, deadline: float = 0.0, **options: Any) -> tuple[int, Submission]:
    """A command whose outcome is dword 0 of its completion."""
    queue: Any = None
    submission = Submission(queue, 1, deadline, collect=lambda cid, cqe: cqe.dw0, **options)
    cid = table.ids.take()
    table.begin(cid, submission)
    return cid, submission


def batch(table: Outstanding, count: int) -> tuple[list[int], Submission, Any]:
    queue: Any = None
    outcome = np.zeros(count, ADMIN_CQE)
    submission = Submission(queue, count, 0.0, outcome=outcome)
    cids = table.begin_batch(count, submission, as_rows(outcome, ADMIN_CQE.itemsize), 0)
    return cids.tolist(), submission, outcome


def test_completions_of_single_commands_in_any_order() -> None:
    table, done = outstanding(), list[Submission]()
    commands = [single(table) for _ in range(5)]
    for cid, _ in reversed(commands):
        assert table.complete(completion(cid, 100 + cid, sqhd=3), done).sqhd == 3
    assert [submission.outcome for _, submission in commands] == [100 + cid for cid, _ in commands]
    assert done == [submission for _, submission in reversed(commands)]
    assert (table.ids.used, table.strays) == (0, 0)


def test_single_commands_and_batches_completed_together() -> None:
    table, done = outstanding(), list[Submission]()
    first, mine = single(table)
    cids, theirs, outcome = batch(table, 3)
    last, other = single(table)
    rows = completions((cids[2], 3), (cids[0], 1), (first, 10), (0xFFFF, 66), (cids[1], 2), (last, 20), sqhd=6)
    assert table.complete_many(rows, done).sqhd == 6
    assert outcome["dw0"].tolist() == [1, 2, 3]
    assert (mine.outcome, other.outcome) == (10, 20)
    assert {id(submission) for submission in done} == {id(mine), id(theirs), id(other)}
    assert (table.ids.used, table.strays) == (0, 1)


def test_a_batch_is_done_with_its_last_completion() -> None:
    table, done = outstanding(), list[Submission]()
    cids, submission, _ = batch(table, 4)
    table.complete_many(completions(*((cid, 0) for cid in cids[:3])), done)
    assert (done, submission.done(), table.ids.used) == ([], False, 1)
    table.complete(completion(cids[3]), done)
    assert (done, submission.done(), table.ids.used) == ([submission], True, 0)


@pytest.mark.parametrize("cid", [6, ENTRIES - 1, ENTRIES, 0xFFFF])
def test_a_completion_of_no_command_changes_nothing(cid: int, caplog: pytest.LogCaptureFixture) -> None:
    table, done = outstanding(), list[Submission]()
    taken = {single(table)[0], single(table)[0]} - {cid}
    used = table.ids.used
    if cid == 6:  # the first id taken: complete it, so that it comes a second time
        table.complete(completion(cid), [])
        used -= 1
    table.complete(completion(cid), done)
    assert (done, table.strays, table.ids.used) == ([], 1, used)
    assert f"admin queue 0: completion with command id {cid}, which is not outstanding" in caplog.text
    rest = table.ids.take_many(table.ids.free).tolist()
    assert len(set(rest) | taken) == ENTRIES - 1


def test_a_ring_full_of_completions_has_one_more_than_there_are_commands() -> None:
    table, done = outstanding(), list[Submission]()
    cids, submission, outcome = batch(table, ENTRIES - 1)
    rows = completions(*((cid, 1 + number) for number, cid in enumerate(cids)), (cids[0], 99))
    table.complete_many(rows, done)
    assert done == [submission]
    assert outcome["dw0"].tolist() == list(range(1, ENTRIES))
    assert (table.ids.used, table.strays) == (0, 1)


def test_an_outcome_that_is_an_error() -> None:
    table, done = outstanding(), list[Submission]()
    error = AdminCommandError("IDENTIFY", 2, "INVALID_FIELD")

    def refuse(cid: int, cqe: Any) -> int:
        raise error

    cid, submission = single(table)
    submission.collect = refuse
    table.complete(completion(cid), done)
    assert done == [submission]
    assert submission.error is error
    assert table.ids.used == 0


def test_what_failed_keeps_its_id_and_its_error() -> None:
    table, done = outstanding(), list[Submission]()
    cid, submission = single(table)
    cids, theirs, _ = batch(table, 2)
    closed = QueueClosedError("closed")
    assert {id(failed) for failed in table.fail(closed)} == {id(submission), id(theirs)}
    assert table.fail(QueueClosedError("again")) == []
    assert submission.error is theirs.error is closed
    assert table.ids.used == 3
    table.complete_many(completions((cid, 0), *((number, 0) for number in cids)), done)
    assert submission.error is theirs.error is closed
    assert (table.ids.used, table.strays) == (0, 0)


def test_the_error_announced_first_stays() -> None:
    """Whoever waited has been told: a late completion that is an error itself does not change the story."""
    table = outstanding()

    def refuse(cid: int, cqe: Any) -> int:
        raise AdminCommandError("IDENTIFY", 2, "INVALID_FIELD")

    cid, submission = single(table)
    submission.collect = refuse
    late = CommandTimeoutError("late")
    table.fail(late)
    table.complete(completion(cid), [])
    assert submission.error is late


def test_only_what_is_due_expires() -> None:
    table = outstanding()
    _, early = single(table, deadline=10.0)
    _, late = single(table, deadline=20.0)
    late_error = CommandTimeoutError("late")
    assert table.fail(late_error, due_before=10.0) == []
    assert table.fail(late_error, due_before=15.0) == [early]
    assert late.error is None


def test_buffers_are_held_until_the_device_is_done_or_has_forgotten() -> None:
    with DmaArena(mmap.mmap(-1, 1 << 16), 1 << 32, lambda: None) as arena:
        free = arena.free_bytes
        table = outstanding()
        cid, _ = single(table, held=arena.allocate(64))
        single(table, held=arena.allocate(64))
        table.fail(QueueClosedError("closed"))
        assert arena.free_bytes == free - 128
        table.complete(completion(cid), [])
        assert arena.free_bytes == free - 64
        table.forget()
        assert arena.free_bytes == free
        assert (table.ids.used, table.fail(QueueClosedError("nothing left"))) == (0, [])
