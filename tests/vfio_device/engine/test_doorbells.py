# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Doorbell values (spec 01 §3): what makes no sense is ignored and counted; against a model of a ring."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_abi.doorbells import cq_head_offset, sq_tail_offset
from support.rig import EngineRig, hsm_entry


@pytest.mark.parametrize("value", [16, 17, 0xFFFF, 0x1_0000, 0xFFFF_FFFF])
def test_values_beyond_the_ring(rig: EngineRig, value: int) -> None:
    rig.queue(1, 16).create()
    rig.doorbell(sq_tail_offset(1), value)
    rig.doorbell(cq_head_offset(1), value)
    counters = rig.engine.counters()
    assert (counters["doorbells"], counters["doorbells_bad_value"]) == (2, 2)
    assert rig.nothing_to_pull()


def test_a_value_rung_twice(rig: EngineRig) -> None:
    queue = rig.queue(1).create()
    queue.submit(hsm_entry(1))
    queue.ring()
    assert rig.engine.counters()["doorbells_bad_value"] == 1
    rig.engine.complete_hsm(rig.pull(), b"")
    assert rig.nothing_to_pull()


def test_adding_to_a_full_queue(rig: EngineRig) -> None:
    queue = rig.queue(1, 4).create()
    queue.submit(*(hsm_entry(cid) for cid in range(3)))
    queue.submit(hsm_entry(3))
    assert rig.engine.counters()["doorbells_bad_value"] == 1
    assert [rig.pull().cid for _ in range(3)] == [0, 1, 2]
    assert rig.nothing_to_pull()


@pytest.mark.parametrize("queue_id", [0, 1, 65, 66, 255, 256, 385, 386, 511])
def test_queues_that_do_not_exist(rig: EngineRig, queue_id: int) -> None:
    rig.doorbell(sq_tail_offset(queue_id), 1)
    rig.doorbell(cq_head_offset(queue_id), 1)
    assert rig.engine.counters()["doorbells_unknown_queue"] == 2


@pytest.mark.parametrize("offset", [1, 2, 3, 0x1000, 0x1008, 2**63])
def test_offsets_that_are_no_doorbell(rig: EngineRig, offset: int) -> None:
    rig.queue(1).create()
    rig.engine.doorbell(offset, 1)
    assert rig.engine.counters()["doorbells_unknown_queue"] == 1


@pytest.mark.parametrize("queue_id", [0, 66, 386])
def test_no_queue_with_such_an_id(rig: EngineRig, queue_id: int) -> None:
    with pytest.raises(ValueError, match="can exist"):
        rig.engine.create_cq(queue_id, 0x1000, 16, None)


@pytest.mark.parametrize(("entries", "vector"), [(1, None), (0, None), (65537, None), (16, 32), (16, -2)])
def test_numbers_out_of_range(rig: EngineRig, entries: int, vector: int | None) -> None:
    with pytest.raises(ValueError, match="can exist"):
        rig.engine.create_cq(1, 0x1000, entries, vector)


@settings(max_examples=60)
@given(
    entries=st.integers(2, 9),
    actions=st.lists(st.tuples(st.sampled_from(["tail", "head", "pull", "complete"]), st.integers(0, 10)), max_size=60),
)
def test_against_a_model(entries: int, actions: list[tuple[str, int]]) -> None:
    """Any doorbells in any order: the engine fetches what a model fetches, and counts what it refuses."""
    with EngineRig() as rig:
        queue = rig.queue(1, entries).create()
        for index in range(entries):
            queue.put(hsm_entry(index))
        tail = head = fetched = posted = refused = 0  # all but `refused` count for ever
        open_commands = []
        for action, number in actions:
            match action:
                case "tail":
                    added = (number - tail) % entries
                    legal = number < entries and added and tail + added - fetched < entries
                    tail, refused = (tail + added, refused) if legal else (tail, refused + 1)
                    rig.doorbell(sq_tail_offset(1), number)
                case "head":
                    consumed = (number - head) % entries
                    legal = number < entries and consumed and head + consumed <= posted
                    head, refused = (head + consumed, refused) if legal else (head, refused + 1)
                    rig.doorbell(cq_head_offset(1), number)
                case "pull":
                    expected = fetched < tail and posted + len(open_commands) - head < entries - 1
                    command = rig.scheduler.pull(1, 0)
                    assert (command is not None) == expected
                    if command is not None:
                        assert command.cid == fetched % entries
                        fetched += 1
                        open_commands.append(command)
                case "complete" if open_commands:
                    rig.engine.complete_hsm(open_commands.pop(number % len(open_commands)), b"")
                    posted += 1
        assert rig.engine.counters()["doorbells_bad_value"] == refused
