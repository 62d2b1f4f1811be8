# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Doorbells through a mapped page and its poller: no store is lost, awake or asleep; nothing stale is found."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm_abi.doorbells import POLLER_ASLEEP_OFFSET
from ihsm_device.commands import RingClass
from ihsm_device.engine import Engine
from ihsm_device.hosts import LoopbackHost
from ihsm_device.scheduler import Scheduler
from support.rig import EngineRig, RigQueue, aes_entry, hsm_entry
from support.waiting import HANG_S, ended, first, stays, until

ASLEEP = POLLER_ASLEEP_OFFSET // 4


@pytest.fixture(params=[0, 20, math.inf], ids=["sleepy", "spins 20 us", "never sleeps"])
def page_rig(request: pytest.FixtureRequest) -> Iterator[EngineRig]:
    with EngineRig(aes_workers=0, doorbell_page=True, spin_us=request.param) as rig:
        yield rig


def run_aes(queue: RigQueue, count: int) -> None:
    for cid in range(count):
        queue.submit(aes_entry(cid))
        assert int(queue.wait()["cmd_id"]) == cid


def test_aes_and_hsm_commands(page_rig: EngineRig) -> None:
    aes, hsm = page_rig.queue(256).create(vector=16), page_rig.queue(1).create(vector=1)
    run_aes(aes, 200)
    for cid in range(100):
        hsm.submit(hsm_entry(cid))
        page_rig.engine.complete_hsm(page_rig.pull(), b"")
        assert int(hsm.wait()["cid"]) == cid
    counters = page_rig.engine.counters()
    assert counters["doorbells_bad_value"] == counters["doorbells_unknown_queue"] == 0
    assert page_rig.host.interrupts(16) == 200


def test_a_client_that_only_stores_is_seen_soon() -> None:
    """A guest's driver kicks nobody: the bounded sleep ends by itself."""
    with EngineRig(aes_workers=0, doorbell_page=True, spin_us=0) as rig:
        assert rig.page is not None
        queue = rig.queue(256).create()
        for cid in range(50):
            queue.put(aes_entry(cid))
            until(lambda: rig.page[ASLEEP], "a poller that is asleep", every_s=0)
            rig.page[2 * 256] = queue.tail
            completion = first(queue.peek, "completion of a doorbell without kick", every_s=0)
            queue.reap()
            assert int(completion["cmd_id"]) == cid


def test_the_asleep_word_comes_and_goes() -> None:
    with EngineRig(aes_workers=0, doorbell_page=True, spin_us=2000) as rig:
        page = rig.page
        assert page is not None
        queue = rig.queue(256).create()

        def is_awake_after_work() -> bool:
            run_aes(queue, 1)
            return bool(page[ASLEEP] == 0)

        for _ in range(3):
            until(lambda: page[ASLEEP] == 1, "a poller that is asleep", every_s=0)
            until(is_awake_after_work, "a poller that is awake", every_s=0)


def worker() -> dict[str, str]:
    """What the kernel shows of the only AES worker of this process; nothing if there is none."""
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended meanwhile
            lines = (task / "status").read_text().splitlines()
            if lines[0] == "Name:\tihsm-aes":
                return dict(line.split(":\t") for line in lines if ":\t" in line)
    return {}


def test_a_worker_helps_a_poller_that_is_behind() -> None:
    """No doorbell of the page wakes one: the poller does, when rings wait while it serves others."""
    queues, entries = range(256, 260), 1024
    with EngineRig(aes_workers=1, doorbell_page=True, spin_us=math.inf) as rig:
        busy = [rig.queue(number, entries).create() for number in queues]
        for queue in busy:
            for cid in range(entries):
                queue.put(aes_entry(cid))
        until(lambda: worker().get("State", "").startswith("S"), "a worker that sleeps")
        begun = int(worker()["voluntary_ctxt_switches"])

        def has_helped() -> bool:
            """After as many commands as the rings have room for."""
            for queue in busy:
                queue.tail = (queue.tail + entries - 1) % entries
                queue.ring()
            for queue in busy:
                expected = [(queue.head + number) % entries for number in range(entries - 1)]
                assert [int(queue.wait(ring=False)["cmd_id"]) for _ in expected] == expected
                queue.ring_head()
            return int(worker()["voluntary_ctxt_switches"]) > begun + 2

        until(has_helped, "help of a worker", every_s=0)


def test_level_1_abort_forgets_the_stale_tail_and_keeps_the_head(page_rig: EngineRig) -> None:
    assert page_rig.page is not None
    queue = page_rig.queue(256, 8).create()
    run_aes(queue, 5)
    page_rig.engine.delete_sq(256)
    page_rig.engine.create_sq(256, queue.sq_iova, 8, 256)
    assert (int(page_rig.page[512]), int(page_rig.page[513])) == (0, queue.head)
    queue.tail = 0
    run_aes(queue, 20)


def test_disable_clears_the_page_and_stores_afterwards_ring_nothing(page_rig: EngineRig) -> None:
    assert page_rig.page is not None
    queue = page_rig.queue(256).create()
    run_aes(queue, 3)
    page_rig.engine.disable()
    assert not page_rig.page[:ASLEEP].any()
    page_rig.page[512] = 9
    before = page_rig.memory.copy()
    assert stays(lambda: (page_rig.memory == before).all())
    again = page_rig.queue(256).create()
    assert int(page_rig.page[512]) == 0
    run_aes(again, 20)


def test_values_that_make_no_sense_are_counted_once(page_rig: EngineRig) -> None:
    assert page_rig.page is not None
    queue = page_rig.queue(256, 8).create()
    page_rig.page[512] = 8
    until(lambda: page_rig.engine.counters()["doorbells_bad_value"], "a value that was looked at", every_s=0)
    assert stays(lambda: page_rig.engine.counters()["doorbells_bad_value"] == 1)
    run_aes(queue, 9)


def test_a_doorbell_that_comes_as_an_access_goes_through_the_page(page_rig: EngineRig) -> None:
    queue = page_rig.queue(256, 8).create()
    for cid in range(20):
        queue.put(aes_entry(cid))
        page_rig.engine.doorbell(8 * 256, queue.tail)
        completion = first(lambda: queue.reap(ring=False), "completion of a doorbell access", every_s=0)
        page_rig.engine.doorbell(8 * 256 + 4, queue.head)
        assert int(completion["cmd_id"]) == cid


def test_the_page_cannot_be_cut(page_rig: EngineRig) -> None:
    assert page_rig.engine.page_fd is not None
    with pytest.raises(OSError, match="not permitted"):
        os.ftruncate(page_rig.engine.page_fd, 0)


def test_a_poller_that_sleeps_and_wakes_loses_no_doorbell() -> None:
    """Pauses around the poller's own ones, with kicks as the asleep word asks for them."""
    with EngineRig(aes_workers=0, doorbell_page=True, spin_us=30) as rig:
        queue = rig.queue(256, 16).create()
        for cid in range(3000):
            for _ in range(30 * (cid % 60)):  # up to about twice the time that the poller stays awake
                pass
            queue.submit(aes_entry(cid))
            assert int(queue.wait()["cmd_id"]) == cid


def test_pages_of_functions_that_come_and_go() -> None:
    with EngineRig(aes_workers=1, doorbell_page=True, spin_us=20) as rig:
        queue = rig.queue(256).create()
        stop = threading.Event()

        def churn() -> None:
            while not stop.is_set():
                Engine(rig.scheduler, LoopbackHost(), doorbell_page=True).close()

        thread = threading.Thread(target=churn, daemon=True)
        thread.start()
        run_aes(queue, 300)
        stop.set()
        ended(thread)


def test_hsm_commands_reach_a_blocked_puller() -> None:
    with EngineRig(doorbell_page=True, spin_us=0) as rig:
        queue = rig.queue(1).create()
        got: list[object] = []
        thread = threading.Thread(target=lambda: got.append(rig.scheduler.pull(RingClass.HSM, HANG_S)), daemon=True)
        thread.start()
        assert stays(thread.is_alive)
        queue.submit(hsm_entry(4))
        ended(thread)
        assert getattr(got[0], "cid", None) == 4


@pytest.mark.parametrize("spin_us", [-1, math.nan])
def test_spin_time_is_checked(spin_us: float) -> None:
    with pytest.raises(ValueError, match="spin_us"):
        Scheduler(spin_us=spin_us)
