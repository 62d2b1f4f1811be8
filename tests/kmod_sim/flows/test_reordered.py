# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Completions in another order than their commands (spec 01 §5.1): a command is known by its id alone."""

from __future__ import annotations

import errno

import pytest

from ihsm_abi.uapi import GENERIC_IOCTL, InternalCode
from support.claims import Covers
from support.flow import HSM_QUEUE, Flow, answers, level_1
from support.ioctls import kept
from support.waiting import HANG_S


@pytest.mark.parametrize("behind", [1, 3])
def test_one_comes_behind_others(flow: Flow, behind: int, covers: Covers) -> None:
    hit = flow.faults.add("reorder-completions", queue=HSM_QUEUE, count=1, behind=behind)
    first = flow.start_ask()
    hit.wait()
    for _ in range(behind):
        assert not first.done()
        assert flow.ask().error == 0
    assert first.result(HANG_S).error == 0
    assert flow.admin() == []
    flow.works()
    covers("fault/reorder-completions")


def test_one_of_an_aes_queue(flow: Flow) -> None:
    """The pool has two queues, which are taken in turn."""
    hit = flow.faults.add("reorder-completions", queue=256, count=1, behind=1)
    first = flow.driver.start_aes()
    hit.wait()
    assert [flow.driver.aes().error for _ in range(2)] == [0, 0]
    assert first.join().error == 0  # type: ignore[attr-defined]
    assert flow.admin() == []
    flow.works()


def test_pairs_of_all_commands(flow: Flow) -> None:
    """While one waits for its turn the next is answered at once."""
    hit = flow.faults.add("reorder-completions", queue=HSM_QUEUE, behind=1)
    for number in range(1, 6):
        first = flow.start_ask()
        hit.wait(number)
        assert flow.ask().error == 0
        assert first.result(HANG_S).error == 0
    assert hit.hits == 5
    flow.faults.clear()
    flow.works()


def test_nothing_comes_before_it(flow: Flow) -> None:
    """The deletion of its queue, in level 1, lets it go: it ends as others do, and its caller has timed out."""
    lost = flow.lose("reorder-completions", behind=1)
    flow.time_out()
    assert answers(lost) == [(kept("extended_status", GENERIC_IOCTL), errno.EAGAIN)]
    assert flow.admin() == level_1()
    flow.works()


def test_nothing_comes_before_it_on_an_aes_queue(flow: Flow) -> None:
    lost = flow.lose_aes("reorder-completions", behind=1)
    flow.time_out()
    assert (lost.join().code, lost.join().error) == (InternalCode.SUCCESS, errno.EAGAIN)  # type: ignore[attr-defined]
    assert flow.admin() == level_1(256)
    flow.works()


@pytest.mark.parametrize("queue", [HSM_QUEUE, 256])
def test_the_fault_ends_before_others_come(flow: Flow, queue: int) -> None:
    hit = flow.faults.add("reorder-completions", queue=queue, count=1, behind=64)
    first = flow.driver.start_hsm() if queue == HSM_QUEUE else flow.driver.start_aes()
    hit.wait()
    hit.clear()
    assert first.join().error == 0  # type: ignore[attr-defined]
    flow.works()


def test_the_admin_queue_keeps_its_order(flow: Flow) -> None:
    """It has one command at a time: behind the one that waits none would come."""
    hit = flow.faults.add("reorder-completions", queue=0, behind=1)
    flow.driver.unbind()
    flow.driver.bind()
    flow.driver.stop_monitor()
    assert hit.hits == 0
