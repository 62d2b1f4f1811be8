# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A poller about to fall asleep misses no doorbell. Its sleep has no bound here, so that none heals a miss."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm_abi.doorbells import POLLER_ASLEEP_OFFSET, sq_tail_offset
from ihsm_device._native import lib
from support.rig import EngineRig, RigQueue, hsm_entry
from support.seams import Seams

ASLEEP = POLLER_ASLEEP_OFFSET // 4
CID = 7


@pytest.fixture
def queue(seams: Seams | None) -> Iterator[RigQueue | None]:
    """A queue with an entry that no doorbell has told of; the poller is held on its way to sleep."""
    if seams is None:
        yield None
        return
    seams.sleep_without_bound()
    seams.close("POLLER_TIRED")
    seams.close("POLLER_SLEEPS")
    with EngineRig(aes_workers=0, doorbell_page=True, spin_us=0) as rig:
        queue = rig.queue(1).create()
        queue.put(hsm_entry(CID))
        seams.wait_standing("POLLER_TIRED")
        yield queue
        seams.reset()


def store(queue: RigQueue) -> None:
    """What a client that has mapped the page does: nothing but a store."""
    assert queue.rig.page is not None
    queue.rig.page[sq_tail_offset(queue.queue_id) // 4] = queue.tail


def told_to_kick(queue: RigQueue) -> bool:
    """What a client reads after its store."""
    assert queue.rig.page is not None
    return bool(queue.rig.page[ASLEEP])


def test_a_doorbell_stored_before_the_asleep_word_is_seen_by_the_second_look(seams: Seams, queue: RigQueue) -> None:
    store(queue)
    assert not told_to_kick(queue)
    seams.open("POLLER_TIRED")
    seams.wait_standing("POLLER_SLEEPS")
    assert queue.rig.engine.counters()["doorbells"] == 1, "the poller goes to sleep with a doorbell in the page"
    assert queue.rig.pull().cid == CID


def test_a_doorbell_stored_after_the_second_look_finds_the_asleep_word(seams: Seams, queue: RigQueue) -> None:
    seams.open("POLLER_TIRED")
    seams.wait_standing("POLLER_SLEEPS")
    store(queue)
    assert told_to_kick(queue)
    os.eventfd_write(queue.rig.engine.kick_fd, 1)
    seams.open("POLLER_SLEEPS")
    assert queue.rig.pull().cid == CID


def test_a_doorbell_that_comes_as_an_access_kicks_the_poller(seams: Seams, queue: RigQueue) -> None:
    seams.open("POLLER_TIRED")
    seams.wait_standing("POLLER_SLEEPS")
    queue.rig.engine.doorbell(sq_tail_offset(queue.queue_id), queue.tail)
    kicked, _, _ = select.select([lib.ihsm_scheduler_kicks(queue.rig.scheduler.handle)], [], [], 0)
    assert kicked, "nobody will wake the poller"
    seams.open("POLLER_SLEEPS")
    assert queue.rig.pull().cid == CID


def test_a_kick_that_the_client_takes_back_leaves_the_poller_to_others(seams: Seams, queue: RigQueue) -> None:
    """The poller reads no descriptor that a client has: such a read waits once O_NONBLOCK is cleared."""
    kick_fd = queue.rig.engine.kick_fd
    os.set_blocking(kick_fd, True)
    seams.open("POLLER_TIRED")
    seams.wait_standing("POLLER_SLEEPS")
    os.eventfd_write(kick_fd, 1)
    assert os.eventfd_read(kick_fd) == 1
    store(queue)
    queue.rig.engine.doorbell(sq_tail_offset(queue.queue_id), queue.tail)  # kicks by the descriptor that nobody has
    seams.open("POLLER_SLEEPS")
    assert queue.rig.pull().cid == CID


def test_kicks_are_heard_and_never_read(seams: Seams, queue: RigQueue) -> None:
    kick_fd = queue.rig.engine.kick_fd
    seams.open("POLLER_TIRED")
    seams.open("POLLER_SLEEPS")
    seams.wait_reached("POLLER_SLEEPS")
    for count in range(1, 4):
        before = seams.reached("POLLER_SLEEPS")
        os.eventfd_write(kick_fd, 1)
        seams.wait_reached("POLLER_SLEEPS", before + 1)
        assert f"eventfd-count: {count:16x}" in Path(f"/proc/self/fdinfo/{kick_fd}").read_text()
