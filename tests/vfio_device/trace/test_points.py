# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What is recorded at each point, and in which order: what answers an event comes behind it."""

from __future__ import annotations

import itertools
import mmap
import os

import pytest

from ihsm.trace.decoding import entry_fields
from ihsm.trace.records import (
    Completion,
    Connect,
    DmaMap,
    DmaUnmap,
    Doorbell,
    Entry,
    FaultAdded,
    FaultCleared,
    FaultHit,
    Interrupt,
    Mark,
    Record,
    RegisterRead,
    RegisterWrite,
    Request,
    Reset,
    Response,
)
from ihsm_abi.doorbells import cq_head_offset, sq_tail_offset
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import Match, When
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from ihsm_abi.trace import CONFIG_REGION, DmaProt, DoorbellKind, DoorbellOutcome, TraceKind, TraceReset
from support.devices import DeviceUnderTest
from support.polled import PolledDriver
from support.recorded import Recorded, kinds
from support.shown import IN_SESSION, Sender, Shown
from support.waiting import until

only_vfio_user = pytest.mark.parametrize("device", ["vfio-user"], indirect=True)
VECTORS = {ADMIN_QUEUE_ID: 0, 1: 3, FIRST_AES_QUEUE_ID: 20}


def order(records: list[Record], *wanted: type[Record]) -> list[int]:
    """Where the first record of each class is."""
    return [next(at for at, record in enumerate(records) if isinstance(record, cls)) for cls in wanted]


def test_a_command_in_its_order_byte_by_byte(sender: Sender, recorded: Recorded) -> None:
    ring = sender.ring
    recorded.forget()
    slot, place, tail = ring.tail, ring.head, (ring.tail + 1) % ring.entries
    entry_cid = sender.send()
    sent = ring.sq[slot].tobytes()
    assert sender.reap() == sender.right(entry_cid)
    answered = ring.cq[place].tobytes()
    # the polling driver may have seen its completion before the interrupt, and before a page's head doorbell
    recorded.until(
        lambda all: (
            any(isinstance(each, Interrupt) for each in all) and sum(isinstance(each, Doorbell) for each in all) == 2
        ),
        "the interrupt and both doorbells",
    )
    records = recorded.take()
    doorbells = recorded.of(Doorbell)
    (entry,), (completion,), (interrupt,) = recorded.of(Entry), recorded.of(Completion), recorded.of(Interrupt)
    queue = sender.queue_id
    assert (doorbells[0].queue, doorbells[0].which, doorbells[0].value) == (queue, DoorbellKind.SQ_TAIL, tail)
    assert (doorbells[1].queue, doorbells[1].which, doorbells[1].value) == (queue, DoorbellKind.CQ_HEAD, ring.head)
    assert [each.offset for each in doorbells] == [sq_tail_offset(queue), cq_head_offset(queue)]
    assert {each.outcome for each in doorbells} == {DoorbellOutcome.TAKEN}
    assert (entry.queue, entry.slot, entry.data) == (queue, slot, sent)
    assert (completion.queue, completion.slot, completion.data) == (queue, place, answered)
    assert (completion.phase, completion.vector) == (answered[-2] & 1, VECTORS[queue])
    assert interrupt.vector == VECTORS[queue]
    places = [records.index(each) for each in (doorbells[0], entry, completion)]
    assert places == sorted(places)
    assert records.index(completion) < records.index(interrupt)
    assert records.index(completion) < records.index(doorbells[1])


def test_many_commands_leave_none_out(sender: Sender, recorded: Recorded) -> None:
    recorded.forget()
    cids = []
    for _ in range(3 * sender.ring.entries):
        cids.append(sender.send())
        sender.reap()
    for cls in (Entry, Completion):
        found = [entry_fields(record) for record in recorded.of(cls)]
        assert [next(v for k, v in each.items() if k.endswith((".cid", ".cmd_id"))) for each in found] == cids
    phases = [record.phase for record in recorded.of(Completion)]
    assert set(phases) == {0, 1}
    slots = [record.slot for record in recorded.of(Completion)]
    assert all((after - before) % sender.ring.entries == 1 for before, after in itertools.pairwise(slots))


def test_nothing_is_recorded_without_a_reader(sender: Sender, device: DeviceUnderTest) -> None:
    recorded = Recorded(device.device.trace, 0)
    sender.run()
    assert recorded.take() == []
    assert not device.device.trace.mark("nobody")


def test_kinds_that_nobody_wants_are_not_recorded(sender: Sender, device: DeviceUnderTest) -> None:
    recorded = Recorded(device.device.trace, kinds(TraceKind.ENTRY, TraceKind.MARK))
    sender.run()
    device.device.trace.mark("end")
    assert {type(record) for record in recorded.take()} == {Entry, Mark}


def test_registers(driver: PolledDriver, recorded: Recorded, device: DeviceUnderTest) -> None:
    if device.function.uri == "loopback:":
        pytest.skip("accesses of a loopback function do not pass the transport")
    recorded.forget()
    driver.write(Register.AQA, 0x70007)
    value = driver.read(Register.CAP, 8)
    written, read = recorded.take()
    assert (type(written), type(read)) == (RegisterWrite, RegisterRead)
    assert (written.region, written.offset, written.width, written.value) == (Bar.REGISTERS, Register.AQA, 4, 0x70007)
    assert (read.region, read.offset, read.width, read.value) == (Bar.REGISTERS, Register.CAP, 8, value)


@only_vfio_user
def test_configuration_space_and_a_level_reset(device: DeviceUnderTest, recorded: Recorded) -> None:
    recorded.forget()
    vendor = device.function.read_config(0, 4)
    (read,) = recorded.take()
    assert isinstance(read, RegisterRead)
    assert (read.region, read.offset, read.width, read.value) == (CONFIG_REGION, 0, 4, int.from_bytes(vendor, "little"))
    whole = device.function.read_config(0, 64)
    wide = recorded.of(RegisterRead)[-1]
    assert (wide.width, wide.value) == (64, int.from_bytes(whole[:8], "little"))
    recorded.forget()
    device.level_reset()
    (reset,) = recorded.of(Reset)
    assert reset.reset == TraceReset.FUNCTION_LEVEL
    records = recorded.take()
    written = max(at for at, record in enumerate(records) if isinstance(record, RegisterWrite))
    assert written < records.index(reset)


@only_vfio_user
def test_the_msix_table_and_reads_of_doorbells(device: DeviceUnderTest, recorded: Recorded) -> None:
    recorded.forget()
    device.function.write_bar(Bar.MSIX, 12, 4, 1)
    device.function.read_bar(Bar.DOORBELLS, 8, 4)
    written, read = recorded.take()
    assert isinstance(written, RegisterWrite)
    assert (written.region, written.offset, written.value) == (Bar.MSIX, 12, 1)
    assert isinstance(read, RegisterRead)
    assert (read.region, read.offset, read.value) == (Bar.DOORBELLS, 8, 0)


@only_vfio_user
def test_memory_that_comes_and_goes(device: DeviceUnderTest, recorded: Recorded) -> None:
    recorded.forget()
    file = os.memfd_create("test")
    os.ftruncate(file, 2 * mmap.PAGESIZE)
    iova = 0x7_0000_0000
    device.map_dma(file, 0, iova, 2 * mmap.PAGESIZE)
    os.close(file)
    (mapped,) = recorded.of(DmaMap)
    assert (mapped.iova, mapped.size) == (iova, 2 * mmap.PAGESIZE)
    assert mapped.prot == DmaProt.READ | DmaProt.WRITE | DmaProt.REACHABLE
    device.function.close()
    recorded.until(lambda all: any(isinstance(each, DmaUnmap) and each.iova == iova for each in all), "the unmap")
    (unmapped,) = [each for each in recorded.of(DmaUnmap) if each.iova == iova]
    assert unmapped.size == 2 * mmap.PAGESIZE


# a page that a client stores into has places for all queues, but only those of queues that exist are looked at
@pytest.mark.parametrize("device", ["loopback", "vfio-user"], indirect=True)
@pytest.mark.parametrize(
    ("value", "queue", "outcome"),
    [
        (200, 1, DoorbellOutcome.BAD_VALUE),
        (1, 2, DoorbellOutcome.UNKNOWN_QUEUE),
        (1, None, DoorbellOutcome.UNKNOWN_QUEUE),
    ],
)
def test_doorbells_that_have_no_effect(
    ready: PolledDriver, recorded: Recorded, value: int, queue: int | None, outcome: DoorbellOutcome
) -> None:
    recorded.forget()
    offset = sq_tail_offset(200 if queue is None else queue)
    ready.function.write_bar(Bar.DOORBELLS, offset, 4, value)
    recorded.until(lambda all: len(all) > 0, "the doorbell")
    (doorbell,) = recorded.of(Doorbell)
    assert (doorbell.queue, doorbell.offset, doorbell.value, doorbell.outcome) == (queue, offset, value, outcome)


def test_messages_that_are_none_leave_their_length(ready: PolledDriver, recorded: Recorded) -> None:
    secret = b"not a message, but it may hold something secret"
    recorded.forget()
    ready.run_hsm(secret, control=IN_SESSION)
    request, response = recorded.of(Request)[0], recorded.of(Response)[0]
    assert (request.length, request.message, request.queue) == (len(secret), b"", 1)
    assert (response.length, response.message, response.cid) == (len(secret), b"", request.cid)
    assert secret not in b"".join(record.encode() for record in recorded.take())
    assert order(recorded.take(), Entry, Request, Response, Completion) == sorted(
        order(recorded.take(), Entry, Request, Response, Completion)
    )


def test_faults_and_their_hits(sender: Sender, recorded: Recorded, device: DeviceUnderTest) -> None:
    shown = Shown.of(device)
    recorded.forget()
    number = shown.show(FaultAction.DROP_COMPLETION, match=Match(queue=sender.queue_id), when=When(count=1))
    sender.send()
    shown.until_hit(number)
    shown.faults.clear(number)
    (added,), (hit,), (cleared,) = recorded.of(FaultAdded), recorded.of(FaultHit), recorded.of(FaultCleared)
    assert (added.fault, added.text) == (number, f"drop-completion queue={sender.queue_id} count=1")
    assert (hit.fault, hit.queue, hit.vector) == (number, sender.queue_id, None)
    assert cleared.fault == number
    assert recorded.of(Completion) == []


def test_a_reset_that_a_fault_causes(ready: PolledDriver, recorded: Recorded, device: DeviceUnderTest) -> None:
    shown = Shown.of(device)
    number = shown.show(FaultAction.RESET_FUNCTION, match=Match(queue=1))
    recorded.forget()
    Sender(ready, 1).send()
    shown.until_hit(number)
    assert [reset.reset for reset in recorded.of(Reset)] == [TraceReset.FAULT]
    assert order(recorded.take(), Entry, FaultHit, Reset) == sorted(order(recorded.take(), Entry, FaultHit, Reset))


def test_an_interrupt_for_no_reason(ready: PolledDriver, recorded: Recorded, device: DeviceUnderTest) -> None:
    recorded.forget()
    shown = Shown.of(device)
    number = shown.show(FaultAction.SPURIOUS_INTERRUPT, when=When(), vector=3)
    recorded.until(lambda all: any(isinstance(each, Interrupt) for each in all), "the interrupt")
    (hit,), (interrupt,) = recorded.of(FaultHit), recorded.of(Interrupt)
    assert (hit.fault, hit.vector, interrupt.vector) == (number, 3, 3)


def test_a_completion_that_cannot_be_written_is_not_recorded(
    ready: PolledDriver, recorded: Recorded, device: DeviceUnderTest
) -> None:
    ring = ready.rings[1]
    recorded.forget()
    ready.delete_pair(1)
    hole = 0x9_0000_0000
    ring.cq_memory.iova, kept = hole, ring.cq_memory.iova
    try:
        assert ready.create_cq(ring, 3).status == 0
        assert ready.create_sq(ring).status == 0
    finally:
        ring.cq_memory.iova = kept
    recorded.forget()
    ready.rings[1] = ring
    ring.restart_sq()
    Sender(ready, 1).send()

    def stopped() -> bool:
        state = device.device.engine.queue(1)
        return state is not None and state.stopped

    until(stopped, "the end of the queue")
    assert recorded.of(Completion) == []


@only_vfio_user
def test_clients_that_come_and_go(device: DeviceUnderTest, recorded: Recorded) -> None:
    recorded.forget()
    device.function.close()
    recorded.until(lambda all: any(each.kind == TraceKind.DISCONNECT for each in all), "the client's end")
    assert [reset.reset for reset in recorded.of(Reset)] == [TraceReset.LOST_CONNECTION]
    assert recorded.of(Connect) == []
