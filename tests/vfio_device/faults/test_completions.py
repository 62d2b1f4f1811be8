# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Completions that are dropped, late, doubled or wrong (spec 01 §5.1, §8)."""

from __future__ import annotations

from contextlib import closing

import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus, Psf
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import Match, When
from ihsm_abi.hsm_queue import HsmStatus
from ihsm_abi.pci import PAGE_BYTES
from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from ihsm_device.commands import Outcome
from ihsm_device.faults import FaultSet
from support.devices import DeviceUnderTest
from support.interrupts import Interrupts
from support.polled import PolledDriver, admin_sqe
from support.rig import EngineRig, hsm_entry
from support.shown import LONG_MS, Sender, Shown
from support.waiting import until

ONCE = When(count=1)


def test_a_dropped_completion_never_comes_and_the_next_does(shown: Shown, sender: Sender) -> None:
    fault = shown.show(FaultAction.DROP_COMPLETION, match=Match(queue=sender.queue_id), when=ONCE)
    lost = sender.send()
    shown.until_hit(fault)
    assert sender.unanswered
    kept = sender.send()
    assert sender.reap() == sender.right(kept), "and its head is that of both"
    assert sender.ring.outstanding == {lost}
    assert sender.ring.sqhd == sender.ring.tail
    assert shown.faults.hits(fault) == 1


def test_dropped_completions_more_than_the_queue_is_long(shown: Shown, sender: Sender) -> None:
    entries = sender.ring.entries
    fault = shown.show(FaultAction.DROP_COMPLETION, match=Match(queue=sender.queue_id), when=When(count=2 * entries))
    for number in range(2 * entries):
        sender.send()
        shown.until_hit(fault, number + 1)
        sender.ring.forget_outstanding()
    sender.run()


def test_deleting_a_queue_waits_for_no_dropped_completion(
    shown: Shown, io_sender: Sender, device: DeviceUnderTest
) -> None:
    fault = shown.show(FaultAction.DROP_COMPLETION, match=Match(queue=io_sender.queue_id))
    io_sender.send()
    shown.until_hit(fault)
    io_sender.driver.delete_pair(io_sender.queue_id)
    assert device.module.rollbacks == [], "what was done counts as told"


@pytest.mark.parametrize("opcode", [AdminOpcode.DELETE_SQ, AdminOpcode.CREATE_SQ])
def test_an_admin_command_is_done_though_nobody_hears_of_it(
    shown: Shown, ready: PolledDriver, device: DeviceUnderTest, opcode: AdminOpcode
) -> None:
    fault = shown.show(FaultAction.DROP_COMPLETION, match=Match(queue=0, opcode=opcode), when=ONCE)
    if opcode is AdminOpcode.CREATE_SQ:
        assert ready.run_admin(AdminOpcode.DELETE_SQ, dw10=1).status == AdminStatus.SUCCESS
        ready.admin.submit(ready.create_sq_sqe(ready.rings[1]))
    else:
        ready.admin.submit(admin_sqe(AdminOpcode.DELETE_SQ, ready.next_cid(), dw10=1))
    shown.until_hit(fault)
    assert device.device.engine.sq_exists(1) == (opcode is AdminOpcode.CREATE_SQ)
    Sender(ready, 0).run()


def test_a_late_completion_comes(shown: Shown, sender: Sender) -> None:
    fault = shown.show(FaultAction.DELAY_COMPLETION, match=Match(queue=sender.queue_id), when=ONCE, ms=1)
    late = sender.send()
    shown.until_hit(fault)
    assert sender.reap() == sender.right(late)
    sender.run()


def test_what_is_answered_meanwhile_comes_first(shown: Shown, io_sender: Sender) -> None:
    shown.show(FaultAction.DELAY_COMPLETION, match=Match(queue=io_sender.queue_id), when=ONCE, ms=LONG_MS)
    late = io_sender.send()
    io_sender.run()
    io_sender.run()
    assert io_sender.ring.outstanding == {late}


def test_a_late_completion_of_a_queue_that_is_gone_never_comes(shown: Shown, io_sender: Sender) -> None:
    """Disabled meanwhile; the queue that has the memory then gets nothing that it did not ask for."""
    driver = io_sender.driver
    fault = shown.show(FaultAction.DELAY_COMPLETION, match=Match(queue=io_sender.queue_id), when=ONCE, ms=20)
    io_sender.send()
    shown.until_hit(fault)
    driver.disable()
    driver.enable()
    driver.create_pair(io_sender.queue_id)
    assert io_sender.unanswered
    io_sender.run()


def test_deleting_a_queue_waits_for_its_late_completion(shown: Shown, io_sender: Sender) -> None:
    fault = shown.show(FaultAction.DELAY_COMPLETION, match=Match(queue=io_sender.queue_id), when=ONCE, ms=20)
    cid = io_sender.send()
    shown.until_hit(fault)
    assert io_sender.driver.run_admin(AdminOpcode.DELETE_SQ, dw10=io_sender.queue_id).status == AdminStatus.SUCCESS
    completion = io_sender.ring.poll()
    assert completion is not None, "it was there before the deletion's"
    assert completion[io_sender.ring.cid_field] == cid


def test_a_late_completion_brings_its_interrupt(shown: Shown, io_sender: Sender, interrupts: Interrupts) -> None:
    vector = 20 if io_sender.queue_id == FIRST_AES_QUEUE_ID else 3
    shown.show(FaultAction.DELAY_COMPLETION, match=Match(queue=io_sender.queue_id), when=ONCE, ms=1)
    io_sender.send()
    assert interrupts.arrives(vector)
    io_sender.reap()


def test_a_dropped_completion_brings_no_interrupt(shown: Shown, sender: Sender, interrupts: Interrupts) -> None:
    fault = shown.show(FaultAction.DROP_COMPLETION, match=Match(queue=sender.queue_id), when=ONCE)
    sender.send()
    shown.until_hit(fault)
    assert interrupts.quiet()


def test_a_completion_comes_twice(shown: Shown, sender: Sender) -> None:
    fault = shown.show(FaultAction.DUPLICATE_COMPLETION, match=Match(queue=sender.queue_id), when=ONCE)
    cid = sender.send()
    one, other = sender.raw(), sender.raw()
    assert str(one) == str(other)
    assert one[sender.ring.cid_field] == cid
    sender.ring_head()
    sender.run()
    assert shown.faults.hits(fault) == 1


@pytest.mark.parametrize(
    ("action", "parameters"),
    [(FaultAction.DUPLICATE_COMPLETION, {}), (FaultAction.WRONG_CID, {"cid": 1}), (FaultAction.WRONG_PHASE, {})],
)
def test_what_cannot_be_written_stops_the_queue_as_without_a_fault(
    action: FaultAction, parameters: dict[str, int]
) -> None:
    """Once: no second entry is tried behind the first."""
    with EngineRig() as rig, closing(FaultSet(rig.engine)) as faults:
        fault = Shown(faults).show(action, **parameters)
        queue, rom = rig.queue(1), 0x9000_0000
        rig.host.map(rom, bytearray(PAGE_BYTES), writable=False)
        queue.cq_iova = rom
        queue.create()
        queue.submit(hsm_entry(5), hsm_entry(6))
        first, second = rig.pull(), rig.pull()
        assert rig.engine.complete_hsm(first, b"") is Outcome.DROPPED
        assert rig.engine.complete_hsm(second, b"") is Outcome.DROPPED
        assert rig.engine.counters()["cqe_unwritable"] == 1
        state = rig.engine.queue(1)
        assert state is not None
        assert state.stopped
        assert faults.hits(fault) == 2


def test_copies_take_no_place_that_a_command_has_been_promised(shown: Shown, io_sender: Sender) -> None:
    """So every command of a full queue is answered, however many copies there are."""
    ring = io_sender.ring
    fault = shown.show(FaultAction.DUPLICATE_COMPLETION, match=Match(queue=io_sender.queue_id))
    sent = [io_sender.driver.next_cid() for _ in range(ring.entries - 1)]
    for cid in sent:
        ring.put(io_sender.entry(cid))
    ring.ring()
    seen: list[int] = []
    while set(seen) != set(sent):
        seen.append(int(io_sender.raw()[ring.cid_field]))
        io_sender.ring_head()
    assert shown.faults.hits(fault) == len(sent)


def test_a_wrong_cid(shown: Shown, sender: Sender) -> None:
    shown.show(FaultAction.WRONG_CID, match=Match(queue=sender.queue_id), when=ONCE, cid=0xBEEF)
    cid = sender.send()
    assert sender.raw()[sender.ring.cid_field] == 0xBEEF
    sender.ring_head()
    sender.run()
    assert cid in sender.ring.outstanding


def test_a_wrong_head(shown: Shown, sender: Sender) -> None:
    shown.show(FaultAction.WRONG_SQHD, match=Match(queue=sender.queue_id), when=ONCE, sqhd=0xFFFF)
    sender.send()
    assert sender.raw()["sqhd"] == 0xFFFF
    sender.ring_head()
    sender.run()


def test_a_wrong_phase(shown: Shown, sender: Sender) -> None:
    fault = shown.show(FaultAction.WRONG_PHASE, match=Match(queue=sender.queue_id), when=ONCE)
    cid = sender.send()
    shown.until_hit(fault)
    ring = sender.ring
    until(lambda: ring.cq[ring.head][ring.cid_field] == cid, "the rest of the entry")
    assert sender.unanswered
    sender.take()
    sender.ring_head()
    sender.run()


def test_a_wrong_phase_in_the_last_place_of_the_queue(shown: Shown, sender: Sender) -> None:
    """There the phase changes for all that follow, up to that place again: what lies there looks like a completion."""
    ring = sender.ring
    while ring.head != ring.entries - 1:
        sender.run()
    fault = shown.show(FaultAction.WRONG_PHASE, match=Match(queue=sender.queue_id), when=ONCE)
    cid = sender.send()
    shown.until_hit(fault)
    until(lambda: ring.cq[ring.head][ring.cid_field] == cid, "the rest of the entry")
    sender.take()
    sender.ring_head()
    for _ in range(ring.entries - 1):
        sender.run()


def test_a_wrong_status(shown: Shown, sender: Sender) -> None:
    shown.show(FaultAction.WRONG_STATUS, match=Match(queue=sender.queue_id), when=ONCE, status=0x4007)
    cid = sender.send()
    assert sender.reap() == (cid, 0x4007)
    sender.run()


def test_a_wrong_error_of_an_aes_command(shown: Shown, ready: PolledDriver) -> None:
    sender = Sender(ready, FIRST_AES_QUEUE_ID)
    shown.show(FaultAction.WRONG_STATUS, match=Match(queue=FIRST_AES_QUEUE_ID), when=ONCE, status=3, err=9)
    sender.send()
    completion = sender.ring.wait()
    assert (Psf(completion["psf"]).status, completion["err"]) == (3, 9)


def test_refused_commands_are_answered_wrongly_too(shown: Shown, ready: PolledDriver) -> None:
    """What the engine refuses before anyone carries it out (spec 02 B.7)."""
    fault = shown.show(FaultAction.WRONG_STATUS, match=Match(queue=1, opcode=5), when=ONCE, status=1)
    ring = ready.rings[1]
    completion = ring.run(hsm_entry(ready.next_cid(), command=5))
    assert Psf(completion["psf"]).status == 1
    assert shown.faults.hits(fault) == 1
    completion = ring.run(hsm_entry(ready.next_cid(), command=5))
    assert Psf(completion["psf"]).sc == HsmStatus.INVALID_OPCODE
