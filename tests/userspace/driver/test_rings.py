# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Ring memory by itself: what lies in it when a doorbell rings, wrap, phase, and who owns what was taken."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm._native import lib
from ihsm.bus import DmaArena
from ihsm.driver.records import as_rows
from ihsm.driver.rings import ADMIN_RING, AES_RING, HSM_RING, CompletionRing, RingFormat, SubmissionRing
from ihsm_abi.pci import PAGE_BYTES

RINGS = [ADMIN_RING, HSM_RING, AES_RING]
BELL = 0x40


class Bells:
    """Calls `rung` while a doorbell is written."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.rung: Callable[[int], None] = lambda value: None

    def ring(self, offset: int, value: int) -> None:
        assert offset == BELL
        self.rung(value)
        self.values.append(value)


@pytest.fixture
def arena() -> Iterator[DmaArena]:
    with DmaArena(mmap.mmap(-1, 1 << 20), 1 << 32, lambda: None) as arena:
        yield arena


def submission_ring(arena: DmaArena, entries: int, ring: RingFormat = ADMIN_RING) -> tuple[SubmissionRing, Bells, Any]:
    """A ring, its doorbell, and the device's view of its entries."""
    bells: Any = Bells()
    sq = SubmissionRing(ring, entries, arena, bells, BELL)
    start = sq.iova - arena.iova
    return sq, bells, arena.array[start : start + entries * ring.sqe.itemsize].view(ring.sqe)


def completion_ring(arena: DmaArena, entries: int, ring: RingFormat = ADMIN_RING) -> tuple[CompletionRing, Bells, Any]:
    bells: Any = Bells()
    cq = CompletionRing(ring, entries, arena, bells, BELL)
    start = cq.iova - arena.iova
    return cq, bells, arena.array[start : start + entries * ring.cqe.itemsize].view(ring.cqe)


@pytest.mark.parametrize("ring", RINGS)
def test_both_rings_take_whole_pages(ring: RingFormat, arena: DmaArena) -> None:
    free = arena.free_bytes
    bells: Any = Bells()
    rings = SubmissionRing(ring, 100, arena, bells, 0), CompletionRing(ring, 100, arena, bells, 0)
    assert free - arena.free_bytes == ring.ring_bytes(100)
    assert all(part.iova % PAGE_BYTES == 0 for part in rings)
    for part in rings:
        part.release()
    assert arena.free_bytes == free


@pytest.mark.parametrize("ring", RINGS)
def test_entries_lie_in_memory_when_their_doorbell_rings(ring: RingFormat, arena: DmaArena) -> None:
    sq, bells, memory = submission_ring(arena, 8, ring)
    seen: list[list[int]] = []
    bells.rung = lambda tail: seen.append([int(cid) for cid in memory[:tail][ring.cid]])
    entry = np.zeros(1, ring.sqe)
    entry[ring.cid] = 5
    sq.write(entry.tobytes())
    assert bells.values == []
    sq.announce()
    sq.write_many(as_rows(np.zeros(3, ring.sqe), ring.sqe.itemsize), np.array([3, 2, 1]))
    sq.announce()
    assert seen == [[5], [5, 3, 2, 1]]
    assert bells.values == [1, 4]


@given(entries=st.integers(2, 12), writes=st.lists(st.integers(1, 11), max_size=40), lag=st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_no_entry_is_written_over_before_it_was_fetched(entries: int, writes: list[int], lag: int) -> None:
    with DmaArena(mmap.mmap(-1, 1 << 16), 1 << 32, lambda: None) as arena:
        sq, _, memory = submission_ring(arena, entries)
        unfetched: list[tuple[int, int]] = []
        stamp = 0
        for wanted in writes:
            assert sq.room == entries - 1 - len(unfetched)
            count = min(wanted, sq.room)
            rows = np.zeros(count, ADMIN_RING.sqe)
            rows["dw10"] = range(stamp, stamp + count)
            if count == 1:
                rows["cid"] = 1
                sq.write(rows.tobytes())
            elif count:
                sq.write_many(as_rows(rows, 64), np.arange(count))
            start = (sq.tail - count) % entries
            unfetched += [((start + number) % entries, stamp + number) for number in range(count)]
            stamp += count
            assert [int(memory[slot]["dw10"]) for slot, _ in unfetched] == [value for _, value in unfetched]
            del unfetched[: max(0, len(unfetched) - lag)]
            assert sq.fetched(unfetched[0][0] if unfetched else sq.tail)


def test_an_sq_head_outside_the_ring_is_refused_and_changes_nothing(arena: DmaArena) -> None:
    sq, _, _ = submission_ring(arena, 4)
    sq.write(bytes(64))
    assert sq.room == 2
    assert not sq.fetched(4)
    assert not sq.fetched(0xFFFF)
    assert sq.room == 2
    assert sq.fetched(1)
    assert sq.room == 3


def test_an_entry_of_another_size_is_refused(arena: DmaArena) -> None:
    sq, _, memory = submission_ring(arena, 4)
    for size in (0, 63, 65, 128):
        with pytest.raises(ValueError, match="assign"):
            sq.write(b"\xff" * size)
    assert sq.tail == 0
    assert not memory.view(np.uint8).any()


def post(memory: Any, slot: int, phase: int, value: int = 0) -> None:
    memory[slot]["dw0"] = value
    memory[slot]["psf"] = phase


@given(entries=st.integers(2, 12), counts=st.lists(st.integers(1, 12), max_size=30))
@settings(max_examples=100, deadline=None)
def test_completions_are_taken_once_and_in_order(entries: int, counts: list[int]) -> None:
    with DmaArena(mmap.mmap(-1, 1 << 16), 1 << 32, lambda: None) as arena:
        cq, bells, memory = completion_ring(arena, entries)
        tail, phase, stamp = 0, 1, 0
        for wanted in counts:
            count = min(wanted, entries)
            for number in range(count):
                post(memory, tail, phase, stamp + number)
                tail += 1
                if tail == entries:
                    tail, phase = 0, phase ^ 1
            assert cq.ready() == count
            has = [bool(lib.ihsm_cq_has(cq.pointer, wanted)) for wanted in range(1, entries + 1)]
            assert has == [wanted <= count for wanted in range(1, entries + 1)]
            assert lib.ihsm_cq_ready_up_to(cq.pointer, 2) == min(count, 2)
            if count == 1:
                taken = np.frombuffer(cq.take(), ADMIN_RING.cqe)
            else:
                taken = cq.take_many(count).view(ADMIN_RING.cqe).reshape(-1)
            before = taken.copy()
            memory["dw0"] = 0xFFFF_FFFF  # the device goes on
            assert np.array_equal(taken, before)
            assert taken["dw0"].tolist() == list(range(stamp, stamp + count))
            stamp += count
            assert cq.ready() == 0
            assert (cq.head, cq.phase) == (tail, phase)
            cq.acknowledge(count)
            assert not bells.values or bells.values[-1] < entries


def test_the_head_is_told_every_half_ring_and_when_a_command_would_wait_for_it(arena: DmaArena) -> None:
    cq, bells, memory = completion_ring(arena, 8)
    for slot in range(3):
        post(memory, slot, 1)
        cq.take()
        cq.acknowledge(1)
    cq.assure(4)
    assert bells.values == []
    cq.assure(5)  # 3 entries not known to be free, 5 commands: 8
    assert bells.values == [3]
    cq.assure(7)
    assert bells.values == [3]
    cq.take_many(4)
    cq.acknowledge(4)
    assert bells.values == [3, 7]


def test_rings_go_on_where_a_borrower_left_them(arena: DmaArena) -> None:
    sq, bells, _ = submission_ring(arena, 8)
    sq.resume(5)
    assert (sq.tail, sq.room) == (5, 7)
    cq, _, memory = completion_ring(arena, 8)
    cq.resume(6, 0)
    post(memory, 6, 1)
    assert cq.ready() == 0
    post(memory, 6, 0)
    post(memory, 7, 0)
    assert cq.ready() == 2
    cq.take_many(2)
    assert (cq.head, cq.phase) == (0, 1)
    assert bells.values == []


def test_cleared_memory_has_no_entries(arena: DmaArena) -> None:
    sq, _, entries = submission_ring(arena, 4)
    sq.write(b"\xff" * 64)
    sq.clear()
    assert not entries.view(np.uint8).any()
    cq, _, memory = completion_ring(arena, 4)
    post(memory, 0, 1)
    cq.clear()
    assert cq.ready() == 0
    assert not memory.view(np.uint8).any()
