# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Interrupts that are lost, late, or come for nothing (spec 01 §5.2)."""

from __future__ import annotations

import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import Match, When
from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from support.interrupts import ANY, Interrupts
from support.polled import PolledDriver
from support.shown import LONG_MS, Sender, Shown

ONCE = When(count=1)
VECTORS = {0: 0, 1: 3, FIRST_AES_QUEUE_ID: 20}
"""Of the queues of the fixture `ready`."""


def test_a_lost_interrupt_never_comes_and_the_next_does(shown: Shown, sender: Sender, interrupts: Interrupts) -> None:
    vector = VECTORS[sender.queue_id]
    fault = shown.show(FaultAction.LOSE_INTERRUPT, match=Match(vector=vector), when=ONCE)
    sender.run()
    shown.until_hit(fault)
    assert interrupts.quiet()
    sender.run()
    assert interrupts.arrives(vector)
    assert shown.faults.hits(fault) == 1


def test_a_lost_interrupt_is_one_of_its_vector(shown: Shown, ready: PolledDriver, interrupts: Interrupts) -> None:
    fault = shown.show(FaultAction.LOSE_INTERRUPT, match=Match(vector=VECTORS[FIRST_AES_QUEUE_ID]))
    Sender(ready, 1).run()
    assert interrupts.arrives(VECTORS[1])
    assert shown.faults.hits(fault) == 0


def test_a_late_interrupt_comes(shown: Shown, sender: Sender, interrupts: Interrupts) -> None:
    vector = VECTORS[sender.queue_id]
    fault = shown.show(FaultAction.DELAY_INTERRUPT, match=Match(vector=vector), when=ONCE, ms=1)
    sender.run()
    assert interrupts.arrives(vector)
    assert shown.faults.hits(fault) == 1


def test_a_late_interrupt_is_late(shown: Shown, sender: Sender, interrupts: Interrupts) -> None:
    vector = VECTORS[sender.queue_id]
    fault = shown.show(FaultAction.DELAY_INTERRUPT, match=Match(vector=vector), when=ONCE, ms=LONG_MS)
    sender.run()
    shown.until_hit(fault)
    assert interrupts.quiet()
    assert interrupts.pending == 0, "nothing is masked"


def test_a_late_interrupt_does_not_come_after_its_queue(
    shown: Shown, io_sender: Sender, interrupts: Interrupts
) -> None:
    """The client has freed the vector with the last queue."""
    driver, vector = io_sender.driver, VECTORS[io_sender.queue_id]
    fault = shown.show(FaultAction.DELAY_INTERRUPT, match=Match(vector=vector), ms=30)
    io_sender.run()
    shown.until_hit(fault)
    driver.delete_pair(io_sender.queue_id)
    assert interrupts.quiet({vector})
    driver.create_pair(io_sender.queue_id, vector=vector)
    assert interrupts.quiet({vector}), "nor to the next queue"


def test_a_late_interrupt_comes_if_another_queue_has_the_vector(
    shown: Shown, ready: PolledDriver, interrupts: Interrupts
) -> None:
    vector = VECTORS[1]
    ready.create_pair(2, vector=vector)
    shown.show(FaultAction.DELAY_INTERRUPT, match=Match(vector=vector), when=ONCE, ms=30)
    Sender(ready, 1).run()
    ready.delete_pair(1)
    assert interrupts.arrives(vector)


def test_a_late_interrupt_does_not_come_after_a_disable(shown: Shown, sender: Sender, interrupts: Interrupts) -> None:
    vector = VECTORS[sender.queue_id]
    fault = shown.show(FaultAction.DELAY_INTERRUPT, match=Match(vector=vector), ms=30)
    sender.run()
    shown.until_hit(fault)
    sender.driver.disable()
    interrupts.forget(vector)
    assert interrupts.quiet()


def test_a_vector_used_anew_is_late_by_its_own_time(shown: Shown, io_sender: Sender, interrupts: Interrupts) -> None:
    """Not at the time at which the one of the queue before would have come."""
    driver, vector = io_sender.driver, VECTORS[io_sender.queue_id]
    shown.show(FaultAction.DELAY_INTERRUPT, match=Match(vector=vector), when=ONCE, ms=1)
    later = shown.show(FaultAction.DELAY_INTERRUPT, match=Match(vector=vector), when=When(nth=2, count=1), ms=LONG_MS)
    io_sender.run()
    driver.delete_pair(io_sender.queue_id)
    driver.create_pair(io_sender.queue_id, vector=vector)
    interrupts.forget(vector)
    io_sender.run()
    shown.until_hit(later)
    assert interrupts.quiet({vector})


@pytest.mark.parametrize("vector", [0, 3, 31])
def test_an_interrupt_for_nothing(shown: Shown, ready: PolledDriver, interrupts: Interrupts, vector: int) -> None:
    """On a vector of a queue, and on one that none has."""
    fault = shown.show(FaultAction.SPURIOUS_INTERRUPT, vector=vector)
    assert interrupts.arrives(vector)
    shown.until_hit(fault)
    assert interrupts.quiet(set(ANY))
    assert shown.faults.list()[0].left == 0


def test_an_interrupt_for_nothing_is_of_no_controller(
    shown: Shown, ready: PolledDriver, interrupts: Interrupts
) -> None:
    ready.disable()
    shown.show(FaultAction.SPURIOUS_INTERRUPT, when=When(after_ms=1), vector=7)
    assert interrupts.arrives(7)


def test_lost_admin_interrupts_keep_no_command_from_its_end(
    shown: Shown, ready: PolledDriver, interrupts: Interrupts
) -> None:
    shown.show(FaultAction.LOSE_INTERRUPT, match=Match(vector=0))
    assert ready.run_admin(AdminOpcode.DELETE_SQ, dw10=1).status == AdminStatus.SUCCESS
    assert ready.run_admin(AdminOpcode.DELETE_CQ, dw10=1).status == AdminStatus.SUCCESS
    assert interrupts.quiet()
