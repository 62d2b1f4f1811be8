# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that are held, cannot reach their memory, or meet a reset (spec 01 §8.2, §8.6, §14.4)."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.aes_queue import AES_BLOCK_BYTES, AesStatus, FetchError
from ihsm_abi.fault_actions import DmaPart, FaultAction
from ihsm_abi.faults import Match, When
from ihsm_abi.hsm_queue import HsmStatus
from ihsm_abi.pci import PAGE_BYTES
from ihsm_abi.registers import Register
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from ihsm_device.commands import Refusal, UnreachableKind
from ihsm_device.faults import FaultSet
from support.aes_rig import GCM_ID, AesRig, descriptor, gcm_job, gcm_sqe, standard_rig, write_sgl
from support.devices import DeviceUnderTest
from support.hosts import no_threads_here
from support.interrupts import Interrupts
from support.modules import SLOW_PREFIX
from support.polled import PolledDriver, admin_sqe, hsm_sqe
from support.shown import QUEUES, Sender, Shown
from support.waiting import HANG_S, stays, until

ONCE = When(count=1)


def test_a_held_command_is_carried_out_when_the_fault_ends(shown: Shown, sender: Sender) -> None:
    fault = shown.show(FaultAction.HOLD_COMMAND, match=Match(queue=sender.queue_id), when=ONCE)
    held = sender.send()
    shown.until_hit(fault)
    assert sender.unanswered
    shown.faults.clear(fault)
    assert sender.reap() == sender.right(held)
    sender.run()


def test_a_held_command_holds_up_no_other(shown: Shown, io_sender: Sender, device: DeviceUnderTest) -> None:
    fault = shown.show(FaultAction.HOLD_COMMAND, match=Match(queue=io_sender.queue_id), when=ONCE)
    held = io_sender.send()
    shown.until_hit(fault)
    io_sender.run()
    io_sender.run()
    shown.faults.clear()
    assert io_sender.reap() == io_sender.right(held)


def test_a_held_command_goes_on_when_the_time_of_the_fault_is_over(shown: Shown, sender: Sender) -> None:
    fault = shown.show(FaultAction.HOLD_COMMAND, match=Match(queue=sender.queue_id), when=When(for_ms=50))
    held = sender.send()
    assert sender.reap() == sender.right(held)
    assert shown.faults.hits(fault) <= 1


def test_held_commands_fill_the_queue_and_none_is_lost(shown: Shown, io_sender: Sender) -> None:
    ring = io_sender.ring
    fault = shown.show(FaultAction.HOLD_COMMAND, match=Match(queue=io_sender.queue_id))
    sent = [io_sender.driver.next_cid() for _ in range(ring.entries - 1)]
    for cid in sent:
        ring.put(io_sender.entry(cid))
    ring.ring()
    shown.until_hit(fault, len(sent))
    shown.faults.clear(fault)
    assert sorted(io_sender.reap() for _ in sent) == [io_sender.right(cid) for cid in sent]


def test_deleting_a_queue_waits_for_a_held_command(shown: Shown, io_sender: Sender) -> None:
    fault = shown.show(FaultAction.HOLD_COMMAND, match=Match(queue=io_sender.queue_id), when=ONCE)
    held = io_sender.send()
    shown.until_hit(fault)
    admin = io_sender.driver.admin
    admin.submit(admin_sqe(AdminOpcode.DELETE_SQ, io_sender.driver.next_cid(), dw10=io_sender.queue_id))
    assert Sender(io_sender.driver, ADMIN_QUEUE_ID).unanswered
    shown.faults.clear(fault)
    admin.wait()
    completion = io_sender.ring.poll()
    assert completion is not None, "it was there before the deletion's"
    assert completion[io_sender.ring.cid_field] == held


def test_a_held_command_is_cancelled_when_the_deletion_waits_no_longer(
    shown: Shown, io_sender: Sender, device: DeviceUnderTest
) -> None:
    fault = shown.show(FaultAction.HOLD_COMMAND, match=Match(queue=io_sender.queue_id), when=ONCE)
    io_sender.send()
    shown.until_hit(fault)
    assert device.device.engine.delete_sq(io_sender.queue_id, timeout_s=0)
    shown.faults.clear(fault)
    assert io_sender.driver.create_sq(io_sender.ring).status == AdminStatus.SUCCESS
    io_sender.ring.restart_sq()
    assert io_sender.unanswered
    io_sender.run()


def test_a_held_command_of_a_disabled_controller_is_dropped(
    shown: Shown, sender: Sender, device: DeviceUnderTest
) -> None:
    fault = shown.show(FaultAction.HOLD_COMMAND, match=Match(queue=sender.queue_id), when=ONCE)
    sender.send()
    shown.until_hit(fault)
    driver = sender.driver
    driver.disable()
    driver.enable()
    for queue_id in QUEUES[1:]:
        driver.create_pair(queue_id)
    shown.faults.clear(fault)
    assert sender.unanswered
    sender.run()


def test_held_commands_of_many_controllers_leave_nothing_behind(
    shown: Shown, driver: PolledDriver, device: DeviceUnderTest
) -> None:
    fault = shown.show(FaultAction.HOLD_COMMAND, match=Match(queue=1))
    for number in range(20):
        driver.enable()
        driver.create_pair(1)
        Sender(driver, 1).send()
        shown.until_hit(fault, number + 1)
        driver.disable()
    until(lambda: len(device.device.faults._held) <= 1, "the others to be forgotten")


def test_many_held_commands_are_not_as_many_threads(shown: Shown, ready: PolledDriver, device: DeviceUnderTest) -> None:
    """Each of them waits for the gate when it is carried out."""
    sender, fault = Sender(ready, 1), shown.show(FaultAction.HOLD_COMMAND, match=Match(queue=1))
    ready.page.view[:4] = np.frombuffer(SLOW_PREFIX, np.uint8)
    sent = [ready.next_cid() for _ in range(15)]
    source, destination = ready.page.iova, ready.answer_page.iova
    for cid in sent:
        sender.ring.put(hsm_sqe(cid, source=source, source_bytes=4, destination=destination, destination_bytes=4096))
    sender.ring.ring()
    shown.until_hit(fault, len(sent))
    until(lambda: len(device.device.faults._held) == len(sent), "all of them to be held")
    shown.faults.clear(fault)
    assert device.module.started.acquire(timeout=HANG_S)
    assert stays(lambda: sum(thread.name == "released" for thread in threading.enumerate()) <= 1)
    device.module.gate.set()
    assert sorted(sender.reap()[0] for _ in sent) == sent


def test_a_system_without_threads_is_no_end(shown: Shown, ready: PolledDriver) -> None:
    """What cannot be carried out is refused; other faults go on, and the first of all when there are threads again."""
    with no_threads_here(), pytest.raises(RuntimeError):
        shown.show(FaultAction.HOLD_COMMAND)
    fault = shown.show(FaultAction.HOLD_COMMAND, match=Match(queue=1), when=ONCE)
    sender = Sender(ready, 1)
    held = sender.send()
    shown.until_hit(fault)
    until(lambda: len(shown.faults._held) == 1, "the command to be held")
    with no_threads_here():
        shown.faults.clear(fault)
        assert sender.reap() == (held, HsmStatus.INTERNAL_ERROR)
    shown.show(FaultAction.DELAY_COMPLETION, match=Match(queue=1), when=ONCE, ms=1)
    sender.run()


# -- memory out of reach


@pytest.mark.parametrize("part", [DmaPart.SOURCE, DmaPart.DESTINATION])
def test_an_hsm_command_whose_memory_is_out_of_reach(
    shown: Shown, ready: PolledDriver, device: DeviceUnderTest, part: DmaPart
) -> None:
    sender = Sender(ready, 1)
    fault = shown.show(FaultAction.FAIL_DMA, match=Match(queue=1), when=ONCE, part=part)
    cid = sender.send()
    assert sender.reap() == (cid, HsmStatus.DMA_ERROR)
    assert len(device.module.rollbacks) == (part is DmaPart.DESTINATION)
    sender.run()
    assert shown.faults.hits(fault) == 1


def test_an_admin_command_whose_memory_is_out_of_reach(shown: Shown, ready: PolledDriver) -> None:
    """Only of IDENTIFY, the one that writes data."""
    fault = shown.show(FaultAction.FAIL_DMA, match=Match(queue=0), when=ONCE, part=DmaPart.DESTINATION)
    assert ready.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).status == AdminStatus.SUCCESS
    assert shown.faults.hits(fault) == 0
    identify = ready.run_admin(AdminOpcode.IDENTIFY, dw10=1, prp1=ready.page.iova)
    assert identify.status == AdminStatus.DATA_TRANSFER_ERROR
    assert ready.run_admin(AdminOpcode.IDENTIFY, dw10=1, prp1=ready.page.iova).status == AdminStatus.SUCCESS
    assert shown.faults.hits(fault) == 1


def test_an_entry_that_cannot_be_read_stops_its_queue(shown: Shown, sender: Sender, device: DeviceUnderTest) -> None:
    """Of the admin queue CFS tells it; a queue made anew serves."""
    shown.show(FaultAction.FAIL_DMA, match=Match(queue=sender.queue_id), when=ONCE, part=DmaPart.ENTRY)
    driver = sender.driver
    sender.send()
    until(lambda: device.device.engine.counters()["sqe_unreadable"] == 1, "the entry")
    sender.ring.put(sender.entry(driver.next_cid()))
    sender.ring.ring()
    assert sender.unanswered
    state = device.device.engine.queue(sender.queue_id)
    assert state is not None
    assert state.stopped
    assert driver.csts.cfs == (sender.queue_id == ADMIN_QUEUE_ID)
    if sender.queue_id != ADMIN_QUEUE_ID:
        driver.delete_pair(sender.queue_id)
        driver.create_pair(sender.queue_id)
    else:
        driver.disable()
        driver.enable()
    sender.run()


@pytest.fixture
def aes() -> Iterator[tuple[AesRig, FaultSet]]:
    with standard_rig() as rig:
        faults = FaultSet(rig.engine)
        yield rig, faults
        faults.close()


@pytest.mark.parametrize(
    ("part", "status"),
    [
        (DmaPart.SOURCE, (AesStatus.RETRIES_EXCEEDED, 0)),
        (DmaPart.DESTINATION, (AesStatus.RETRIES_EXCEEDED, 0)),
        (DmaPart.LIST, (AesStatus.FETCH_ERROR, FetchError.SRC_SGL)),
    ],
)
@pytest.mark.parametrize("per_segment", [1, 255])
def test_an_aes_command_whose_memory_is_out_of_reach(
    aes: tuple[AesRig, FaultSet], part: DmaPart, status: tuple[int, int], per_segment: int
) -> None:
    rig, faults = aes
    shown = Shown(faults)
    fault = shown.show(FaultAction.FAIL_DMA, when=ONCE, part=part)
    job = gcm_job(rig.memory, GCM_ID, bytes(12), bytes(4096), src_cuts=[512], per_segment=per_segment)
    assert rig.run(job.sqe.tobytes()).status == status
    assert rig.run(job.sqe.tobytes()).sts == AesStatus.SUCCESS
    assert faults.hits(fault) == 1


@pytest.mark.parametrize("pages", [0, 1, 2])
def test_memory_out_of_reach_is_where_none_is_mapped(aes: tuple[AesRig, FaultSet], pages: int) -> None:
    """A guest may have memory at the very end of the addresses, in pieces."""
    rig, faults = aes
    for number in range(1, pages + 1):
        rig.host.map(2**64 - number * PAGE_BYTES, bytearray(PAGE_BYTES))
    Shown(faults).show(FaultAction.FAIL_DMA, when=ONCE, part=DmaPart.SOURCE)
    sqe = gcm_job(rig.memory, GCM_ID, bytes(12), bytes(64)).sqe
    assert rig.run(sqe.tobytes()).status == (AesStatus.RETRIES_EXCEEDED, 0)
    unreachable = rig.scheduler.pull_unreachable()
    assert unreachable is not None
    assert (unreachable.iova, unreachable.reason) == (2**64 - (pages + 1) * PAGE_BYTES, Refusal.NOT_MAPPED)


def test_a_held_aes_command_tells_what_it_cannot_reach(aes: tuple[AesRig, FaultSet]) -> None:
    """As one that was not held."""
    rig, faults = aes
    fault = Shown(faults).show(FaultAction.HOLD_COMMAND, when=ONCE)
    nowhere = 0xDEAD_0000_0000
    good, bad = descriptor(rig.memory.allocate(16), 16), descriptor(nowhere, 16)
    queue = rig.queues[FIRST_AES_QUEUE_ID]
    queue.submit([gcm_sqe(key_id=GCM_ID, cmd_id=9, src_len=16, dst_len=16, src=bad, dst=good).tobytes()])
    Shown(faults).until_hit(fault)
    faults.clear(fault)
    [completion] = queue.reap(1)
    assert (completion.cmd_id, completion.status) == (9, (AesStatus.RETRIES_EXCEEDED, 0))
    rig.scheduler.wake()  # what is there is told all the same, and nothing is waited for
    unreachable = rig.scheduler.pull_unreachable()
    assert unreachable is not None
    assert (unreachable.kind, unreachable.queue_id, unreachable.cid, unreachable.iova) == (
        UnreachableKind.SOURCE, FIRST_AES_QUEUE_ID, 9, nowhere,
    )  # fmt: skip


def test_a_command_that_is_put_off_is_one_event(aes: tuple[AesRig, FaultSet]) -> None:
    """One with so long a list that another thread takes it, having been looked at before."""
    rig, faults = aes
    shown = Shown(faults)
    fault = shown.show(FaultAction.FAIL_DMA, when=When(nth=2, count=1), part=DmaPart.SOURCE)
    size = 1500 * AES_BLOCK_BYTES
    block = rig.memory.allocate(AES_BLOCK_BYTES), AES_BLOCK_BYTES
    sqe = gcm_sqe(
        key_id=GCM_ID,
        src_len=size,
        dst_len=size,
        src=write_sgl(rig.memory, [block] * 1500),
        dst=write_sgl(rig.memory, [(rig.memory.allocate(size), size)]),
    ).tobytes()
    assert rig.run(sqe).sts == AesStatus.SUCCESS
    assert faults.hits(fault) == 0
    assert rig.run(sqe).sts == AesStatus.RETRIES_EXCEEDED


# -- a reset in mid-command


def test_the_function_is_reset_in_mid_command(
    shown: Shown, sender: Sender, device: DeviceUnderTest, interrupts: Interrupts
) -> None:
    """As by a function level reset that the driver knows nothing of: registers and queues are those of power-on."""
    driver = sender.driver
    fault = shown.show(FaultAction.RESET_FUNCTION, match=Match(queue=sender.queue_id), when=ONCE)
    sender.send()
    until(lambda: driver.csts.rdy == 0, "the reset")
    assert driver.read(Register.CC) == driver.read(Register.AQA) == 0
    assert device.device.engine.queue(sender.queue_id) is None
    assert device.module.resets == ["disable"]
    assert sender.unanswered
    assert interrupts.quiet()
    shown.until_hit(fault)
    driver.enable()
    for queue_id in QUEUES[1:]:
        driver.create_pair(queue_id)
    sender.run()


def test_a_reset_is_a_hit_when_it_is_over(
    shown: Shown, sender: Sender, device: DeviceUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = device.device.controller
    begun, go_on, reset = threading.Event(), threading.Event(), controller.reset

    def slowly() -> None:
        begun.set()
        go_on.wait(HANG_S)
        reset()

    monkeypatch.setattr(controller, "reset", slowly)
    fault = shown.show(FaultAction.RESET_FUNCTION, match=Match(queue=sender.queue_id), when=ONCE)
    sender.send()
    assert begun.wait(HANG_S)
    assert shown.stays_at(fault, 0)
    go_on.set()
    shown.until_hit(fault)
    assert sender.driver.csts == 0


def test_commands_behind_a_reset_are_never_answered_either(shown: Shown, io_sender: Sender) -> None:
    driver, ring = io_sender.driver, io_sender.ring
    shown.show(FaultAction.RESET_FUNCTION, match=Match(queue=io_sender.queue_id), when=ONCE)
    for _ in range(ring.entries - 1):
        ring.put(io_sender.entry(driver.next_cid()))
    ring.ring()
    until(lambda: driver.csts.rdy == 0, "the reset")
    driver.enable()
    driver.create_pair(io_sender.queue_id)
    assert io_sender.unanswered
    io_sender.run()
