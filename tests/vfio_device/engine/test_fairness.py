# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Functions are served in turn, then their rings; a turn counts what the lists of its commands cost."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from ihsm_abi.aes_queue import AesStatus, SglType
from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from ihsm_device._native import lib
from ihsm_device.commands import RingClass
from support.aes_rig import GCM_ID, AesRig, descriptor, gcm_job, gcm_sqe, standard_rig
from support.rig import EngineRig, aes_entry, hsm_entry

QUEUES = 5
IV = bytes(12)
BLOCKS = 255
"""Of a segment: as many as fill a page, with a link behind them."""


@pytest.fixture
def rigs() -> Iterator[list[EngineRig]]:
    """Two functions of one scheduler without threads."""
    with (
        EngineRig(aes_workers=0, inline_aes=False) as first,
        EngineRig(inline_aes=False, scheduler=first.scheduler) as second,
    ):
        yield [first, second]


def test_hsm_commands_of_functions_in_turn(rigs: list[EngineRig]) -> None:
    """A function with many full rings before one with a single ring."""
    greedy, modest = rigs
    for queue_id in range(1, QUEUES + 1):
        greedy.queue(queue_id).create().submit(*(hsm_entry(cid) for cid in range(3)))
    modest.queue(1).create().submit(*(hsm_entry(cid) for cid in range(3)))
    pulled = [greedy.pull() for _ in range(3 * QUEUES + 3)]
    engines = [command.engine for command in pulled]
    assert engines[:6] == [greedy.engine, modest.engine] * 3
    turns = [command.queue_id for command in pulled if command.engine is greedy.engine]
    assert turns == [*range(1, QUEUES + 1)] * 3
    assert greedy.nothing_to_pull()


def test_aes_rings_of_functions_in_turn(rigs: list[EngineRig]) -> None:
    greedy, modest = rigs
    queues = [greedy.queue(FIRST_AES_QUEUE_ID + number).create() for number in range(QUEUES)]
    for queue in queues:
        queue.submit(aes_entry(1))
    last = modest.queue(FIRST_AES_QUEUE_ID).create()
    last.submit(aes_entry(1))
    assert greedy.serve_ready_ring()
    assert greedy.serve_ready_ring()
    assert last.reap() is not None
    assert [queue.peek() is not None for queue in queues] == [True, *[False] * (QUEUES - 1)]
    while greedy.serve_ready_ring():
        pass
    assert all(queue.reap() is not None for queue in queues)


def test_a_function_that_goes_leaves_the_others_on_the_lists(rigs: list[EngineRig]) -> None:
    going, staying = rigs
    with EngineRig(inline_aes=False, scheduler=going.scheduler) as between:
        for rig in (going, between, staying):
            for queue_id in (1, 2):
                rig.queue(queue_id).create().submit(hsm_entry(queue_id))
    pulled = [going.pull() for _ in range(4)]
    assert [(command.engine, command.queue_id) for command in pulled] == [
        (rig.engine, queue_id) for queue_id in (1, 2) for rig in (going, staying)
    ]


@pytest.fixture
def rig() -> Iterator[AesRig]:
    """A function with keys whose AES rings the test serves."""
    with standard_rig(aes_workers=0) as rig:
        yield rig


def empty_blocks(rig: AesRig, segments: int) -> bytes:
    """The descriptor of a list of so many full segments of blocks that hold nothing, then one of 16 bytes."""
    data = rig.memory.allocate(16)
    addresses = [rig.memory.allocate(4096) for _ in range(segments)]
    for here, behind in itertools.pairwise([*addresses, 0]):
        last = descriptor(behind, 4096, SglType.SEGMENT) if behind else descriptor(data, 16)
        rig.memory.write(here, descriptor(data, 0) * BLOCKS + last)
    if segments > 1:  # the link to the last segment says so
        rig.memory.write(addresses[-2] + 16 * BLOCKS, descriptor(addresses[-1], 4096, SglType.LAST_SEGMENT))
    return descriptor(addresses[0], 4096, SglType.SEGMENT if segments > 1 else SglType.LAST_SEGMENT)


def test_a_turn_ends_with_the_steps_of_its_lists(rig: AesRig) -> None:
    """Sixteen bytes may have a list that takes as long as a megabyte: 2048 steps are a turn, whatever the commands."""
    links = [empty_blocks(rig, 4) for _ in range(2)]
    sqe = gcm_sqe(key_id=GCM_ID, src_len=16, dst_len=16, src=links[0], dst=links[1]).tobytes()
    queue = rig.queues[FIRST_AES_QUEUE_ID]
    queue.submit([sqe] * 4)
    assert rig.engine.counters()["aes_commands"] == 0, "the thread that rings the doorbell has walked a long list"
    for done in range(1, 5):
        assert lib.ihsm_scheduler_serve_one(rig.scheduler.handle)
        assert rig.engine.counters()["aes_commands"] == done
    assert {completion.status for completion in queue.reap(4)} == {(AesStatus.FETCH_ERROR, 6)}


def test_short_lists_are_still_served_by_whom_rings(rig: AesRig) -> None:
    job = gcm_job(rig.memory, GCM_ID, IV, bytes(16 * 200), src_cuts=range(0, 3200, 16), dst_cuts=range(0, 3200, 16))
    rig.queues[FIRST_AES_QUEUE_ID].submit([job.sqe.tobytes()])
    assert rig.engine.counters()["aes_commands"] == 1


@pytest.mark.parametrize("destination", [False, True])
def test_one_side_alone_can_be_long(rig: AesRig, destination: bool) -> None:
    """A destination longer than the source too, whose list counts though the command is refused."""
    good, long = descriptor(rig.memory.allocate(16), 16), empty_blocks(rig, 5)
    src, dst = (good, long) if destination else (long, good)
    queue = rig.queues[FIRST_AES_QUEUE_ID]
    queue.submit([gcm_sqe(key_id=GCM_ID, src_len=16, dst_len=16, src=src, dst=dst).tobytes()])
    assert rig.engine.counters()["aes_commands"] == 0
    assert lib.ihsm_scheduler_serve_one(rig.scheduler.handle)
    assert queue.reap(1)[0].status[0] == AesStatus.FETCH_ERROR


def test_functions_that_come_and_go_leave_no_threads() -> None:
    """There are threads for long commands for as many functions as there are at one time."""
    with EngineRig(aes_workers=1) as rig:
        rig.queue(FIRST_AES_QUEUE_ID).create()
        before = 0
        for _ in range(5):
            with EngineRig(scheduler=rig.scheduler) as other:
                other.queue(FIRST_AES_QUEUE_ID).create()
                before = before or len(os.listdir("/proc/self/task"))
                assert len(os.listdir("/proc/self/task")) <= before


def test_admin_rings_are_pulled_in_turn_too(rigs: list[EngineRig]) -> None:
    for rig in rigs:
        rig.queue(0).create().submit(hsm_entry(1), hsm_entry(2))
    engines = [rigs[0].pull(RingClass.ADMIN).engine for _ in rigs]
    assert engines == [rig.engine for rig in rigs]
