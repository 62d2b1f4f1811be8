# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Queue mechanics of spec 01 §5: phase, sqhd, full queues, order of writes, rings in odd places."""

from __future__ import annotations

import random
import threading
from queue import Queue

import numpy as np
import pytest

from ihsm_abi.admin import Psf
from ihsm_abi.aes_queue import AES_CQE, GCM_SQE, AesStatus, GcmError
from ihsm_abi.hsm_queue import HSM_CQE, HSM_SQE
from ihsm_device.commands import Command, Outcome, RingClass
from support.rig import MEMORY_IOVA, EngineRig, RigQueue, admin_entry, aes_entry, hsm_entry
from support.waiting import HANG_S, until

ALMOST_A_SECOND = 0.999_999


def test_admin_command_goes_to_python_and_its_completion_to_the_ring(rig: EngineRig) -> None:
    queue = rig.queue(0).create()
    page = rig.allocate(4096)
    entry = admin_entry(9, opc=6, prp1=page, dw10=1)
    queue.submit(entry)
    command = rig.pull(RingClass.ADMIN)
    assert (command.cid, command.queue_id, command.sqe, command.request) == (9, 0, entry, b"")
    assert queue.peek() is None
    assert rig.engine.complete_admin(command, 0x1234, 0x4001, b"x" * 102) is Outcome.POSTED
    assert queue.reap().tobytes().hex() == "341200000000000001000000" + "0900" + "0380"
    assert rig.at(page, 104).tobytes() == b"x" * 102 + b"\0\0"
    assert rig.host.interrupts(0) == 1


def test_examples_of_the_interface_description(rig: EngineRig) -> None:
    """Spec 02 H.1: the completion of an OpenSession."""
    queue = rig.queue(1).create(vector=1)
    source, destination = rig.allocate(4096), rig.allocate(8192)
    rig.at(source, 418)[:] = 7
    for cid in range(5):
        queue.submit(hsm_entry(cid))
        rig.engine.complete_hsm(rig.pull(), b"")
        queue.wait()
    queue.submit(hsm_entry(5, src_len=418, src_prp1=source, dst_len=8192, dst_prp1=destination, control=1))
    command = rig.pull()
    assert command.request == b"\7" * 418
    outcome = rig.engine.complete_hsm(command, b"m" * 156, flags=0x0D, session_id=3)
    assert outcome is Outcome.POSTED
    assert queue.wait().tobytes() == bytes.fromhex("9c000d00030000000600010005000100")


def test_phase_and_sqhd_over_many_laps(rig: EngineRig) -> None:
    queue = rig.queue(1, 5).create(vector=1)
    for number in range(23):
        queue.submit(hsm_entry(number))
        rig.engine.complete_hsm(rig.pull(), b"")
        completion = queue.wait()
        assert int(completion["cid"]) == number
        assert int(completion["sqhd"]) == (number + 1) % 5
        assert int(completion["sqid"]) == 1
        assert queue.peek() is None


def test_tail_that_toggles_between_0_and_1(rig: EngineRig) -> None:
    queue = rig.queue(1, 2).create()
    for number in range(6):
        queue.submit(hsm_entry(number))
        assert queue.tail == (number + 1) % 2
        rig.engine.complete_hsm(rig.pull(), b"")
        assert int(queue.wait()["sqhd"]) == queue.tail


def test_completions_out_of_order_report_the_fetch_index(rig: EngineRig) -> None:
    queue = rig.queue(1, 8).create(vector=1)
    queue.submit(*(hsm_entry(cid) for cid in range(6)))
    commands = [rig.pull() for _ in range(6)]
    random.Random(1).shuffle(commands)
    for command in commands:
        rig.engine.complete_hsm(command, b"")
    completions = [queue.wait() for _ in range(6)]
    assert [int(c["cid"]) for c in completions] == [c.cid for c in commands]
    assert {int(c["sqhd"]) for c in completions} == {6}


@pytest.mark.parametrize("queue_id", [1, 256])
def test_a_full_completion_queue_holds_commands_back(rig: EngineRig, queue_id: int) -> None:
    """Completion queue of 3, so 2 completions fit; the rest follow when the head moves (spec 01 §5.1)."""
    queue = rig.queue(queue_id, 16, cq_entries=3).create(vector=None)
    make = hsm_entry if queue_id == 1 else aes_entry
    queue.submit(*(make(cid) for cid in range(6)))
    for lap in range(3):
        if queue_id == 1:
            for _ in range(2):
                rig.engine.complete_hsm(rig.pull(), b"")
            assert rig.nothing_to_pull()
        completions = [queue.reap(ring=False) for _ in range(2)]
        assert [int(c[queue.cid_field]) for c in completions] == [2 * lap, 2 * lap + 1]
        assert queue.peek() is None
        queue.ring_head()


def test_no_completion_overwrites_one_that_is_not_consumed(rig: EngineRig) -> None:
    queue = rig.queue(256, 16, cq_entries=4).create()
    queue.submit(*(aes_entry(cid) for cid in range(10)))
    first = [queue.reap(ring=False) for _ in range(3)]
    assert [int(c["cmd_id"]) for c in first] == [0, 1, 2]
    assert queue.peek() is None, "the fourth place stays free, or full and empty would look alike"
    queue.ring_head()
    assert [int(queue.wait()["cmd_id"]) for _ in range(7)] == list(range(3, 10))


def test_head_beyond_the_tail_is_refused(rig: EngineRig) -> None:
    queue = rig.queue(256, 8).create()
    queue.submit(aes_entry(0))
    rig.doorbell(8 * 256 + 4, 3)
    assert rig.engine.counters()["doorbells_bad_value"] == 1
    assert queue.wait() is not None


@pytest.mark.parametrize("writable", [14, 15])
def test_a_phase_that_is_written_last(rig: EngineRig, writable: int) -> None:
    """Where the last two bytes of the CQ, or one of them, are not writable, nothing of the entry counts."""
    queue = RigQueue(rig, 1, 4)
    hole, memory = rig.allocate(4096), np.zeros(writable, np.uint8)
    queue.cq_iova = hole + 4096 - writable + 0x4000_0000
    rig.host.map(queue.cq_iova, memory)
    queue.create()
    queue.submit(hsm_entry(1))
    assert rig.engine.complete_hsm(rig.pull(), b"") is Outcome.DROPPED
    assert rig.engine.counters()["cqe_unwritable"] == 1
    assert not memory[14:].any(), "the phase's byte is left alone if the one behind it is out of reach"


def test_a_wait_that_ends_early_in_a_second(rig: EngineRig) -> None:
    """Nanoseconds of a deadline are carried: a wait with more than a second of them is refused by the system."""
    scheduler, queue = rig.scheduler, rig.queue(1).create()
    pulled: Queue[Command | None] = Queue()
    threading.Thread(
        target=lambda: pulled.put(scheduler.pull(RingClass.HSM, HANG_S + ALMOST_A_SECOND)), daemon=True
    ).start()
    until(lambda: any(puller.inside for puller in scheduler._pullers), "somebody who waits")
    threading.Thread(target=queue.submit, args=(hsm_entry(7),), daemon=True).start()
    command = pulled.get(timeout=HANG_S)
    assert command is not None
    assert command.cid == 7


@pytest.mark.parametrize("shift", [1, 2, 3, 62, 63])
def test_rings_at_odd_addresses(rig: EngineRig, shift: int) -> None:
    for queue_id in (1, 256):
        queue = RigQueue(rig, queue_id, 4)
        rig.allocate(4096)
        queue.sq_iova += shift
        queue.cq_iova += shift
        queue.create(vector=queue_id % 7)
        for cid in range(9):
            queue.submit(hsm_entry(cid) if queue_id == 1 else aes_entry(cid))
            if queue_id == 1:
                rig.engine.complete_hsm(rig.pull(), b"")
            assert int(queue.wait()[queue.cid_field]) == cid


@pytest.mark.parametrize("cut", range(1, 128, 9))
def test_rings_across_two_regions(cut: int) -> None:
    """Every split of an entry, even in the middle of its last word."""
    with EngineRig(memory=np.zeros(1 << 16, np.uint8)) as rig:
        base, split = 0x7000_0000, 1024 + cut
        memory = np.zeros(4096, np.uint8)
        rig.host.map(base, memory[:split])
        rig.host.map(base + split, memory[split:])
        for queue_id, sqe_bytes, cqe_bytes in ((1, 64, 16), (256, 128, 64)):
            entries = 16 if cqe_bytes == 64 else 64
            rig.engine.create_cq(queue_id, base + 512, entries, None)
            sq = rig.allocate(entries * sqe_bytes)
            rig.engine.create_sq(queue_id, sq, entries, queue_id)
            for cid in range(entries - 1):
                entry = hsm_entry(cid) if queue_id == 1 else aes_entry(cid)
                rig.at(sq + cid * sqe_bytes, sqe_bytes)[:] = np.frombuffer(entry, np.uint8)
                rig.engine.doorbell(8 * queue_id, cid + 1)
                if queue_id == 1:
                    rig.engine.complete_hsm(rig.pull(), b"")
            dtype, field = (HSM_CQE, "cid") if queue_id == 1 else (AES_CQE, "cmd_id")
            completions = memory[512 : 512 + entries * cqe_bytes].view(dtype)[: entries - 1]
            assert completions[field].tolist() == list(range(entries - 1))
            assert (completions["psf"] & 1).all()
            memory[:] = 0


@pytest.mark.parametrize("cut", range(1, 128, 9))
def test_entries_across_two_regions(rig: EngineRig, cut: int) -> None:
    memory = np.zeros(4096, np.uint8)
    base, split = 0x7000_0000, 256 + cut
    rig.host.map(base, memory[:split])
    rig.host.map(base + split, memory[split:])
    for queue_id, dtype, make in ((1, HSM_SQE, hsm_entry), (256, GCM_SQE, aes_entry)):
        queue = RigQueue(rig, queue_id, 8)
        rig.engine.create_cq(queue_id, queue.cq_iova, 8, None)
        rig.engine.create_sq(queue_id, base, 8, queue_id)
        for cid in range(7):
            memory[cid * dtype.itemsize : (cid + 1) * dtype.itemsize] = np.frombuffer(make(0x100 + cid), np.uint8)
        rig.engine.doorbell(8 * queue_id, 7)
        for cid in range(7):
            if queue_id == 1:
                rig.engine.complete_hsm(rig.pull(), b"")
            assert int(queue.wait()[queue.cid_field]) == 0x100 + cid


@pytest.mark.parametrize("queue_id", [0, 1, 256])
def test_an_unreadable_entry_stops_the_queue_and_no_other(rig: EngineRig, queue_id: int) -> None:
    queue, other = RigQueue(rig, queue_id, 4), rig.queue(2).create()
    queue.sq_iova = 0xDEAD_0000
    queue.create()
    rig.doorbell(8 * queue_id, 1)
    if queue_id < 256:
        assert rig.nothing_to_pull(RingClass.ADMIN if queue_id == 0 else RingClass.HSM)
    assert rig.engine.counters()["sqe_unreadable"] == 1
    assert rig.engine.admin_stopped == (queue_id == 0)
    other.submit(hsm_entry(1))
    rig.engine.complete_hsm(rig.pull(), b"")
    assert other.wait() is not None


@pytest.mark.parametrize("queue_id", [0, 1, 256])
def test_an_unwritable_completion_stops_the_queue(rig: EngineRig, queue_id: int) -> None:
    queue = RigQueue(rig, queue_id, 4)
    queue.cq_iova = 0xDEAD_0000
    queue.create()
    queue.submit({0: admin_entry, 1: hsm_entry, 256: aes_entry}[queue_id](1))
    if queue_id == 0:
        assert rig.engine.complete_admin(rig.pull(RingClass.ADMIN)) is Outcome.DROPPED
    elif queue_id == 1:
        assert rig.engine.complete_hsm(rig.pull(), b"") is Outcome.DROPPED
    assert rig.engine.counters()["cqe_unwritable"] == 1
    assert rig.engine.admin_stopped == (queue_id == 0)
    queue.submit({0: admin_entry, 1: hsm_entry, 256: aes_entry}[queue_id](2))
    assert rig.engine.counters()["cqe_unwritable"] == 1


def test_read_only_memory_takes_no_completion(rig: EngineRig) -> None:
    queue = RigQueue(rig, 1, 4)
    queue.cq_iova = 0x7000_0000
    frozen = np.zeros(4096, np.uint8)
    rig.host.map(queue.cq_iova, frozen, writable=False)
    queue.create()
    queue.submit(hsm_entry(1))
    assert rig.engine.complete_hsm(rig.pull(), b"") is Outcome.DROPPED
    assert not frozen.any()


def test_data_that_cannot_be_written_leaves_the_command_open(rig: EngineRig) -> None:
    queue = rig.queue(0).create()
    queue.submit(admin_entry(1, opc=6, prp1=0xDEAD_0000))
    command = rig.pull(RingClass.ADMIN)
    assert rig.engine.complete_admin(command, data=b"x") is Outcome.DATA_FAILED
    assert queue.peek() is None
    assert rig.engine.complete_admin(command, 0, 0x4004) is Outcome.POSTED
    assert Psf(int(queue.wait()["psf"])).status == 0x4004
    with pytest.raises(RuntimeError, match="twice"):
        rig.engine.complete_admin(command)


def test_never_more_than_dst_len_bytes(rig: EngineRig) -> None:
    queue = rig.queue(1).create()
    source, destination = rig.allocate(4096), rig.allocate(4096)
    queue.submit(hsm_entry(1, src_len=8, src_prp1=source, dst_len=100, dst_prp1=destination))
    rig.engine.complete_hsm(rig.pull(), b"\xff" * 3584)
    assert int(queue.wait()["byte_count"]) == 3584
    assert rig.at(destination, 4096).tolist() == [0xFF] * 100 + [0] * 3996


def test_aes_queue_of_a_function_without_keys(rig: EngineRig) -> None:
    queue = rig.queue(257).create(vector=17)
    queue.submit(aes_entry(5), aes_entry(6, aligned_aad_len=31))
    first, second = queue.wait(), queue.wait()
    assert (int(first["cmd_id"]), int(first["err"]), Psf(int(first["psf"])).status) == (
        5, GcmError.KEY_NOT_OWNED, AesStatus.INVALID_FIELD_GCM,
    )  # fmt: skip
    assert int(second["err"]) == GcmError.AAD_ALIGNMENT
    assert int(second["sqid"]) == 257
    assert 1 <= rig.host.interrupts(17) <= 2


def test_memory_without_a_pointer_is_named_when_the_controller_is_enabled(rig: EngineRig) -> None:
    from ihsm_device.engine import NoPointerError

    rig.host.map_without_pointer(0x9000_0000, 0x10000)
    for asq, acq in ((0x9000_1000, MEMORY_IOVA), (MEMORY_IOVA, 0x9000_FFF0)):
        with pytest.raises(NoPointerError, match="share=on"):
            rig.engine.enable_admin(asq, acq, 16, 16)
    assert rig.engine.counters()["dma_regions_without_pointer"] == 1
    rig.engine.enable_admin(MEMORY_IOVA, MEMORY_IOVA + 4096, 16, 16)
