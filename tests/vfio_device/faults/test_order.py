# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Completions in another order than the commands' (spec 01 §5.1), and commands that must not be seen."""

from __future__ import annotations

import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import Match, When
from support.interrupts import Interrupts
from support.polled import PolledDriver
from support.rig import hsm_entry
from support.shown import Sender, Shown

ONCE = When(count=1)


def reorder(shown: Shown, sender: Sender, when: When = ONCE, behind: int = 1) -> int:
    return shown.show(FaultAction.REORDER_COMPLETIONS, match=Match(queue=sender.queue_id), when=when, behind=behind)


@pytest.mark.parametrize("behind", [1, 2, 3])
def test_one_comes_behind_others(shown: Shown, io_sender: Sender, behind: int) -> None:
    fault = reorder(shown, io_sender, behind=behind)
    first = io_sender.send()
    shown.until_hit(fault)
    for _ in range(behind):
        assert io_sender.unanswered
        io_sender.run()
    assert io_sender.reap() == io_sender.right(first)
    io_sender.run()


def test_heads_never_go_backwards(shown: Shown, io_sender: Sender) -> None:
    fault = reorder(shown, io_sender)
    first = io_sender.send()
    shown.until_hit(fault)
    second = io_sender.send()
    completions = [io_sender.raw(), io_sender.raw()]
    io_sender.ring_head()
    assert [int(each[io_sender.ring.cid_field]) for each in completions] == [second, first]
    assert [int(each["sqhd"]) for each in completions] == [io_sender.ring.tail] * 2


def test_pairs_of_all_commands(shown: Shown, io_sender: Sender) -> None:
    fault = reorder(shown, io_sender, When())
    for number in range(1, 2 * io_sender.ring.entries):
        first = io_sender.send()
        shown.until_hit(fault, number)
        second = io_sender.send()
        assert io_sender.reap() == io_sender.right(second)
        assert io_sender.reap() == io_sender.right(first)


def test_a_full_queue_at_once(shown: Shown, io_sender: Sender) -> None:
    """None is lost, however many are served together."""
    reorder(shown, io_sender, When(), behind=2)
    ring = io_sender.ring
    sent = [io_sender.driver.next_cid() for _ in range(ring.entries - 1)]
    for cid in sent:
        ring.put(io_sender.entry(cid))
    ring.ring()
    seen = []
    for _ in range(len(sent) - 1):
        seen.append(int(io_sender.raw()[ring.cid_field]))
        io_sender.ring_head()
    shown.faults.clear()
    seen.append(int(io_sender.raw()[ring.cid_field]))
    assert sorted(seen) == sent
    assert seen != sent


@pytest.mark.parametrize("others", [FaultAction.DROP_COMPLETION, FaultAction.DELAY_COMPLETION])
def test_what_is_not_written_does_not_count(shown: Shown, io_sender: Sender, others: FaultAction) -> None:
    fault = reorder(shown, io_sender)
    first = io_sender.send()
    shown.until_hit(fault)
    parameters = {"ms": 3_600_000} if others is FaultAction.DELAY_COMPLETION else {}
    other = shown.show(others, match=Match(queue=io_sender.queue_id), when=ONCE, **parameters)
    io_sender.send()
    shown.until_hit(other)
    assert io_sender.unanswered
    io_sender.run()
    assert io_sender.reap() == io_sender.right(first)


def test_deleting_the_queue_lets_it_go(shown: Shown, io_sender: Sender, interrupts: Interrupts) -> None:
    fault = reorder(shown, io_sender)
    first = io_sender.send()
    shown.until_hit(fault)
    assert io_sender.driver.run_admin(AdminOpcode.DELETE_SQ, dw10=io_sender.queue_id).status == AdminStatus.SUCCESS
    completion = io_sender.ring.poll()
    assert completion is not None, "it was there before the deletion's"
    assert completion[io_sender.ring.cid_field] == first
    assert interrupts.arrives(3 if io_sender.queue_id == 1 else 20)


def test_disabling_drops_it(shown: Shown, io_sender: Sender) -> None:
    driver, queue_id = io_sender.driver, io_sender.queue_id
    fault = reorder(shown, io_sender)
    io_sender.send()
    shown.until_hit(fault)
    driver.disable()
    driver.enable()
    driver.create_pair(queue_id)
    assert io_sender.unanswered
    shown.faults.clear()
    io_sender.run()


def test_the_admin_queue_is_not_reordered(shown: Shown, ready: PolledDriver) -> None:
    fault = shown.show(FaultAction.REORDER_COMPLETIONS, behind=1)
    sender = Sender(ready, 0)
    sender.run()
    sender.run()
    assert shown.faults.hits(fault) == 0


def test_a_command_that_must_not_be_seen_is_carried_out(shown: Shown, sender: Sender) -> None:
    fault = shown.show(FaultAction.NEVER, match=Match(queue=sender.queue_id), when=When(nth=2))
    sender.run()
    assert shown.faults.seen() == []
    sender.run()
    sender.run()
    (seen,) = shown.faults.seen()
    assert (seen.number, seen.hits) == (fault, 2)


def test_one_that_is_refused_is_seen_too(shown: Shown, ready: PolledDriver) -> None:
    """Which no other fault of commands hits."""
    never = shown.show(FaultAction.NEVER, match=Match(queue=1, opcode=5))
    held = shown.show(FaultAction.HOLD_COMMAND, match=Match(queue=1, opcode=5))
    ready.rings[1].run(hsm_entry(ready.next_cid(), command=5))
    assert (shown.faults.hits(never), shown.faults.hits(held)) == (1, 0)
