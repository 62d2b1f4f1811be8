# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Creation, deletion, disable, pulling and shutdown (spec 01 §8.2, §14.4)."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ihsm_abi.admin import Psf
from ihsm_abi.aes_queue import AesStatus
from ihsm_abi.pci import MSIX_ENTRY_BYTES, MSIX_PBA_OFFSET, MSIX_VECTORS
from ihsm_abi.resources import FIRST_AES_QUEUE_ID, LAST_AES_QUEUE_ID
from ihsm_device.commands import Outcome, RingClass
from ihsm_device.engine import Engine, QueueError
from ihsm_device.hosts import LoopbackHost
from ihsm_device.hsm.keystore import KeyStore
from ihsm_device.hsm.partition.published import Published
from ihsm_device.scheduler import Scheduler
from support.rig import EngineRig, admin_entry, aes_entry, hsm_entry
from support.waiting import HANG_S, ended, stays, until

LIVES = 3000
"""Engines made and closed by each of the threads that do so beside others' work."""


def in_thread(target: object, *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
    thread.start()
    return thread


def test_what_exists_and_what_does_not(rig: EngineRig) -> None:
    engine = rig.engine
    assert not engine.cq_exists(1)
    with pytest.raises(QueueError, match="does not exist"):
        engine.create_sq(1, 0x1000, 16, 1)
    with pytest.raises(QueueError, match="does not exist"):
        engine.delete_cq(1)
    with pytest.raises(QueueError, match="does not exist"):
        engine.delete_sq(1)
    rig.queue(1).create()
    assert engine.cq_exists(1)
    assert engine.sq_exists(1)
    with pytest.raises(QueueError, match="exists already"):
        engine.create_cq(1, 0x1000, 16, None)
    with pytest.raises(QueueError, match="exists already"):
        engine.create_sq(1, 0x1000, 16, 1)
    with pytest.raises(QueueError, match="in use"):
        engine.delete_cq(1)
    assert engine.delete_sq(1)
    engine.delete_cq(1)
    assert not engine.cq_exists(1)


@pytest.mark.parametrize("number", [0, LAST_AES_QUEUE_ID + 1, 0xFFFF])
def test_numbers_of_no_io_queue(rig: EngineRig, number: int) -> None:
    """That of the admin queue is one of them: it is enabled, not created."""
    engine = rig.engine
    for call in (
        lambda: engine.create_cq(number, 0x1000, 16, None),
        lambda: engine.create_sq(number, 0x1000, 16, number),
        lambda: engine.delete_sq(number),
        lambda: engine.delete_cq(number),
    ):
        with pytest.raises(ValueError, match=f"{number:#x}: no such queue"):
            call()
    assert not engine.cq_exists(number)
    assert not engine.sq_exists(number)
    assert engine.queue(number) is None


@pytest.mark.parametrize("entries", [0, 1, 65537])
def test_sizes_of_no_queue(rig: EngineRig, entries: int) -> None:
    with pytest.raises(ValueError, match="no such queue"):
        rig.engine.create_cq(1, 0x1000, entries, None)
    rig.engine.create_cq(1, 0x1000, 16, None)
    with pytest.raises(ValueError, match="no such queue"):
        rig.engine.create_sq(1, 0x1000, entries, 1)


def test_keys_are_not_changed_under_queues() -> None:
    """Nor what the express lane sees: a command that is carried out has one or the other, not both."""
    store = KeyStore()
    table = store.bulk_table(0)
    with EngineRig() as rig:
        published = Published(little_endian=True, fips=False)
        rig.engine.set_keys(table)
        rig.engine.set_express(published)
        for queue, change in (
            (rig.queue(FIRST_AES_QUEUE_ID), lambda: rig.engine.set_keys(table)),
            (rig.queue(1), lambda: rig.engine.set_express(published)),
        ):
            change()
            queue.create()
            with pytest.raises(QueueError, match="in use"):
                change()
    table.close()
    store.close()


def test_admin_commands_are_handed_out_one_at_a_time(rig: EngineRig) -> None:
    queue = rig.queue(0).create()
    queue.submit(*(admin_entry(cid) for cid in range(3)))
    for cid in range(3):
        command = rig.pull(RingClass.ADMIN)
        assert command.cid == cid
        assert rig.nothing_to_pull(RingClass.ADMIN)
        rig.engine.complete_admin(command)
        assert int(queue.wait()["sqhd"]) == cid + 1


def test_deleting_an_hsm_queue_waits_for_what_was_fetched(rig: EngineRig) -> None:
    queue = rig.queue(1).create(vector=1)
    queue.submit(*(hsm_entry(cid) for cid in range(3)))
    first, second = rig.pull(), rig.pull()
    refused = threading.Event()

    def delete() -> None:
        try:
            rig.engine.delete_sq(1, HANG_S)
        except QueueError:
            refused.set()

    deletions = [in_thread(delete) for _ in range(2)]
    assert refused.wait(HANG_S), "the second of two is refused, which shows that the first has begun"
    assert rig.nothing_to_pull(), "the third was not fetched and never will be"
    assert stays(lambda: any(deletion.is_alive() for deletion in deletions))
    assert rig.engine.complete_hsm(second, b"") is Outcome.POSTED
    assert rig.engine.complete_hsm(first, b"") is Outcome.POSTED
    ended(*deletions)
    assert [int(queue.reap()["cid"]) for _ in range(2)] == [1, 0]
    assert queue.peek() is None
    assert rig.host.interrupts(1) == 2


def test_commands_still_open_after_the_time_limit_are_cancelled(rig: EngineRig) -> None:
    queue = rig.queue(1).create(vector=1)
    queue.submit(hsm_entry(1))
    command = rig.pull()
    assert rig.engine.delete_sq(1, timeout_s=0.02)
    assert not command.live
    rig.engine.create_sq(1, queue.sq_iova, queue.entries, 1)
    assert rig.engine.complete_hsm(command, b"late") is Outcome.DROPPED
    assert queue.peek() is None
    assert rig.host.interrupts(1) == 0
    assert rig.engine.counters()["completions_dropped"] == 1


def test_level_1_abort_keeps_the_completion_queue(rig: EngineRig) -> None:
    """Spec 01 §8.2: same CQ with its tail, phase and vector; the SQ starts at 0 and a stale doorbell is forgotten."""
    queue = rig.queue(1, 4).create(vector=1)
    for cid in range(6):
        queue.submit(hsm_entry(cid))
        rig.engine.complete_hsm(rig.pull(), b"")
        queue.wait()
    queue.submit(hsm_entry(6))
    rig.pull()
    rig.engine.delete_sq(1, timeout_s=0)
    rig.engine.create_sq(1, queue.sq_iova, 4, 1)
    assert rig.nothing_to_pull()
    queue.tail = 0
    for cid in range(10, 20):
        queue.submit(hsm_entry(cid))
        rig.engine.complete_hsm(rig.pull(), b"")
        completion = queue.wait()
        assert (int(completion["cid"]), int(completion["sqhd"])) == (cid, queue.tail)
    assert rig.host.interrupts(1) == 16


def test_deleted_aes_queue_answers_what_was_fetched_with_status_7() -> None:
    with EngineRig(inline_aes=False, aes_workers=0) as rig:
        queue = rig.queue(256, 64).create(vector=16)
        # a long command ends the turn with entries fetched and not done
        queue.submit(aes_entry(0), *(aes_entry(cid, src_len=1 << 20) for cid in range(1, 20)))
        assert rig.serve_ready_ring()
        first = queue.wait()
        assert (int(first["cmd_id"]), Psf(int(first["psf"])).status) == (0, AesStatus.INVALID_FIELD_GCM)
        assert rig.engine.delete_sq(256)
        cancelled = []
        while (completion := queue.reap()) is not None:
            assert Psf(int(completion["psf"])).status == AesStatus.DELETE_QUEUE
            assert int(completion["err"]) == 0
            cancelled.append(int(completion["cmd_id"]))
        assert cancelled == list(range(1, 1 + len(cancelled)))
        assert 0 < len(cancelled) < 19, "only what was fetched is answered"
        assert rig.host.interrupts(16) == 2


@pytest.mark.parametrize("queue_id", [0, 1, 256])
def test_nothing_follows_a_disable(rig: EngineRig, queue_id: int) -> None:
    queue = rig.queue(queue_id).create(vector=3)
    commands = []
    if queue_id == 256:
        queue.submit(aes_entry(1))
        queue.wait()
    else:
        queue.submit((admin_entry if queue_id == 0 else hsm_entry)(1))
        commands = [rig.pull(RingClass.ADMIN if queue_id == 0 else RingClass.HSM)]
    before = rig.memory.copy()
    raised = rig.host.interrupts(3)
    rig.engine.disable()
    for command in commands:
        data = b"late" * 10
        outcome = (
            rig.engine.complete_admin(command, data=data) if queue_id == 0 else rig.engine.complete_hsm(command, data)
        )
        assert outcome is Outcome.DROPPED
    queue.ring()
    rig.doorbell(8 * queue_id, 5)
    assert (rig.memory == before).all()
    assert rig.host.interrupts(3) == raised
    assert not rig.engine.sq_exists(queue_id)


def test_a_masked_interrupt_does_not_survive_its_queue(rig: EngineRig) -> None:
    """Spec 01 §5.2: no message on a vector after its last queue was deleted, even if it was asked for before."""
    for queue_id in (1, 2):
        queue = rig.queue(queue_id).create(vector=5)
        rig.engine.set_function_mask(True)
        queue.submit(hsm_entry(1))
        rig.engine.complete_hsm(rig.pull(), b"")
    assert rig.engine.read_msix(0x800, 4) == (1 << 5).to_bytes(4, "little")
    for queue_id in (1, 2):
        rig.engine.delete_sq(queue_id)
        rig.engine.delete_cq(queue_id)
    rig.engine.set_function_mask(False)
    assert rig.host.interrupts(5) == 0
    queue = rig.queue(1).create(vector=5)
    queue.submit(hsm_entry(1))
    rig.engine.complete_hsm(rig.pull(), b"")
    assert rig.host.interrupts(5) == 1


def test_the_vector_of_another_queue_is_kept(rig: EngineRig) -> None:
    rig.queue(2).create(vector=5)
    queue = rig.queue(1).create(vector=5)
    rig.engine.set_function_mask(True)
    queue.submit(hsm_entry(1))
    rig.engine.complete_hsm(rig.pull(), b"")
    rig.engine.delete_sq(1)
    rig.engine.delete_cq(1)
    rig.engine.set_function_mask(False)
    assert rig.host.interrupts(5) == 1


@pytest.mark.parametrize("size", [4, 8])
def test_writes_behind_the_msix_table_change_nothing(rig: EngineRig, size: int) -> None:
    """What lies there in memory of ours are masks and pending bits."""
    for offset in range(MSIX_VECTORS * MSIX_ENTRY_BYTES, MSIX_VECTORS * MSIX_ENTRY_BYTES + 16, size):
        rig.engine.write_msix(offset, b"\xff" * size)
        assert rig.engine.read_msix(offset, size) == bytes(size)
    assert rig.engine.read_msix(MSIX_PBA_OFFSET, 4) == bytes(4)
    assert [rig.host.interrupts(vector) for vector in range(MSIX_VECTORS)] == [0] * MSIX_VECTORS
    queue = rig.queue(1).create(vector=5)
    queue.submit(hsm_entry(1))
    rig.engine.complete_hsm(rig.pull(), b"")
    assert rig.host.interrupts(5) == 1


def test_rings_are_pulled_in_turn(rig: EngineRig) -> None:
    queues = [rig.queue(queue_id).create() for queue_id in (1, 2, 3)]
    for queue in queues:
        queue.submit(*(hsm_entry(cid) for cid in range(10)))
    order = [rig.pull().queue_id for _ in range(30)]
    assert order == [1, 2, 3] * 10


def test_functions_share_a_scheduler_fairly() -> None:
    scheduler = Scheduler()
    hosts = [LoopbackHost() for _ in range(3)]
    engines = [Engine(scheduler, host) for host in hosts]
    memories = [np.zeros(1 << 16, np.uint8) for _ in hosts]
    for engine, host, memory in zip(engines, hosts, memories, strict=True):
        host.map(0, memory)
        engine.create_cq(1, 0x8000, 16, None)
        engine.create_sq(1, 0, 16, 1)
        for slot in range(8):
            memory[64 * slot : 64 * slot + 64] = np.frombuffer(hsm_entry(slot), np.uint8)
        engine.doorbell(8, 8)
    pulled = []
    for _ in range(24):
        command = scheduler.pull(RingClass.HSM, HANG_S)
        assert command is not None
        pulled.append(engines.index(command.engine))
    assert pulled == [0, 1, 2] * 8
    with pytest.raises(RuntimeError, match="still open"):
        scheduler.close()
    for engine in engines:
        engine.close()
    scheduler.close()


def test_a_flooding_aes_queue_lets_others_through() -> None:
    """Spec of the engine: at most 32 commands or 256 KiB of one queue before the next is served."""
    with EngineRig(inline_aes=False, aes_workers=0) as rig:
        flood, other = rig.queue(256, 256).create(), rig.queue(257).create()
        flood.submit(*(aes_entry(cid) for cid in range(255)))
        other.submit(aes_entry(0))
        assert rig.serve_ready_ring()
        answered = 0
        while flood.reap() is not None:
            answered += 1
        assert answered == 32
        assert other.peek() is None
        assert rig.serve_ready_ring()
        assert other.reap() is not None


@pytest.mark.parametrize(("src_len", "answered"), [(64 * 1024, 4), (1 << 20, 1), (100 * 1024, 2)])
def test_a_turn_ends_after_256_kib(src_len: int, answered: int) -> None:
    with EngineRig(inline_aes=False, aes_workers=0) as rig:
        queue = rig.queue(256, 64).create()
        queue.submit(*(aes_entry(cid, src_len=src_len) for cid in range(20)))
        assert rig.serve_ready_ring()
        assert sum(1 for _ in iter(queue.reap, None)) == answered


@pytest.mark.parametrize("doorbell_page", [False, True], ids=["trap", "page"])
def test_long_commands_hold_up_nobody_else(doorbell_page: bool) -> None:
    """Commands beyond a turn have a thread of their own: other rings are served meanwhile, order within one holds."""
    with EngineRig(aes_workers=0 if doorbell_page else 1, doorbell_page=doorbell_page, spin_us=50) as rig:
        slow, quick = rig.queue(256, 64).create(), rig.queue(257, 64).create()
        lengths = [64, 1 << 20, 64, 64, 1 << 28, 1 << 20, 64]
        for lap in range(20):
            slow.submit(*(aes_entry(10 * lap + n, src_len=length) for n, length in enumerate(lengths)))
            quick.submit(aes_entry(lap))
            assert int(quick.wait()["cmd_id"]) == lap
            assert [int(slow.wait()["cmd_id"]) for _ in lengths] == [10 * lap + n for n in range(len(lengths))]
        names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
        assert "ihsm-aes-long" in names


def test_aes_workers_answer_everything_of_many_queues() -> None:
    with EngineRig(inline_aes=False, aes_workers=3) as rig:
        queues = [rig.queue(256 + n, 16).create(vector=16 + n % 16) for n in range(20)]
        for lap in range(30):
            for queue in queues:
                queue.submit(*(aes_entry(100 * lap + n) for n in range(15)))
            for queue in queues:
                assert [int(queue.wait()["cmd_id"]) for _ in range(15)] == [100 * lap + n for n in range(15)]
        # Counted at the end of a turn, which comes after its last completion.
        until(lambda: rig.engine.counters()["aes_commands"] == 20 * 30 * 15, "the count of all commands")


def test_one_interrupt_for_a_batch(rig: EngineRig) -> None:
    with EngineRig(inline_aes=False, aes_workers=0) as rig:
        queue = rig.queue(256, 64).create(vector=16)
        queue.submit(*(aes_entry(cid) for cid in range(20)))
        rig.serve_ready_ring()
        assert sum(1 for _ in iter(queue.reap, None)) == 20
        assert rig.host.interrupts(16) == 1


def test_pull_times_out_and_wakes(rig: EngineRig) -> None:
    assert rig.scheduler.pull(RingClass.HSM, 0.05) is None
    results: list[object] = []
    pullers = [in_thread(lambda: results.append(rig.scheduler.pull(RingClass.HSM))) for _ in range(3)]
    assert stays(lambda: all(puller.is_alive() for puller in pullers))
    rig.scheduler.wake()
    ended(*pullers)
    assert results == [None] * 3
    assert rig.scheduler.closed
    assert rig.scheduler.pull(RingClass.ADMIN) is None


def test_many_pullers_lose_and_double_nothing(rig: EngineRig) -> None:
    queues = [rig.queue(queue_id, 64).create() for queue_id in range(1, 9)]
    seen: Counter[tuple[int, int]] = Counter()
    lock = threading.Lock()

    def work() -> None:
        while (command := rig.scheduler.pull(RingClass.HSM)) is not None:
            with lock:
                seen[command.queue_id, command.cid] += 1
            rig.engine.complete_hsm(command, b"")

    workers = [in_thread(work) for _ in range(4)]
    for lap in range(10):
        for queue in queues:
            queue.submit(*(hsm_entry(63 * lap + n) for n in range(63)))
        for queue in queues:
            got = {int(queue.wait()["cid"]) for _ in range(63)}
            assert got == {63 * lap + n for n in range(63)}
    rig.scheduler.wake()
    ended(*workers)
    assert len(seen) == 8 * 630
    assert set(seen.values()) == {1}


def test_an_engine_goes_with_its_last_reference() -> None:
    rig = EngineRig()
    queue = rig.queue(1).create()
    queue.submit(hsm_entry(1))
    command = rig.pull()
    gone = weakref.ref(rig.engine)
    rig.close()
    assert not command.live
    assert rig.engine.complete_hsm(command, b"late") is Outcome.DROPPED
    del rig, queue, command
    gc.collect()
    assert gone() is None


def test_functions_come_and_go_while_others_work() -> None:
    """No thread is left inside an engine that is freed."""
    scheduler = Scheduler(aes_workers=2)

    def work() -> None:
        while (command := scheduler.pull(RingClass.HSM)) is not None:
            command.engine.complete_hsm(command, b"")

    def live() -> None:
        for _ in range(LIVES):
            host, memory = LoopbackHost(), np.zeros(1 << 16, np.uint8)
            host.map(0, memory)
            engine = Engine(scheduler, host, inline_aes=False)
            for queue_id, sq, cq in ((1, 0, 0x4000), (256, 0x8000, 0xC000)):
                engine.create_cq(queue_id, cq, 16, 1)
                engine.create_sq(queue_id, sq, 16, queue_id)
                engine.doorbell(8 * queue_id, 15)
            engine.close()

    workers = [in_thread(work) for _ in range(2)]
    ended(*[in_thread(live) for _ in range(3)])
    scheduler.wake()
    ended(*workers)
    scheduler.close()
