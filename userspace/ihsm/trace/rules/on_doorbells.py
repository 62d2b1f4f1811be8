# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Judges of doorbells and of what they lead to (spec 01 §3, §5)."""

from __future__ import annotations

from collections.abc import Iterator

from ihsm.trace.commands import command_id
from ihsm.trace.records import Doorbell, Entry
from ihsm.trace.rules.queues import Completions, Pair, ahead
from ihsm.trace.rules.seen import Proof, Seen
from ihsm.trace.rules.state import FunctionState
from ihsm_abi.resources import ADMIN_QUEUE_ID
from ihsm_abi.trace import DoorbellKind


def _name(doorbell: Doorbell) -> str:
    pointer = "tail" if doorbell.which == DoorbellKind.SQ_TAIL else "head"
    return f"{pointer} of queue {doorbell.queue} := {doorbell.value}"


def place(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Every doorbell is that of a queue."""
    assert isinstance(seen.record, Doorbell)
    if seen.record.queue is None:
        yield Proof(f"a write at BAR2 offset {seen.record.offset:#x}, where no queue has a doorbell", (seen,))


def exists(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Only queues that there are have doorbells."""
    doorbell = seen.record
    assert isinstance(doorbell, Doorbell)
    if doorbell.queue is None:
        return
    pair = state.pair(doorbell.queue)
    ring = None if pair is None else pair.cq if doorbell.which == DoorbellKind.CQ_HEAD else pair.sq
    if ring is not None or state.reset_unseen:
        return
    old = state.gone.get(doorbell.queue)
    if doorbell.which == DoorbellKind.CQ_HEAD and old is not None and old.cq is not None and old.cq.waiting:
        return  # a handler that ran while another processor disabled the controller (spec 01 §8.3)
    if not state.alive:
        why = "the controller is not enabled"
    elif pair is not None and doorbell.which == DoorbellKind.SQ_TAIL:
        why = "its SQ was deleted, or its CREATE_SQ not answered"
    else:
        why = "no such queue was created"
    before = (state.changed,) if state.changed is not None else ()
    yield Proof(f"{_name(doorbell)}: {why}", (*before, seen))


def reset_noticed(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Who learns of a reset by somebody else rings no more."""
    doorbell = seen.record
    assert isinstance(doorbell, Doorbell)
    if state.reset_unseen and state.changed is not None:
        yield Proof(f"{_name(doorbell)}: the function has been reset", (state.changed, seen))


def _ring_of(state: FunctionState, doorbell: Doorbell) -> tuple[Pair, int | None] | None:
    """The pair, and the entries of the ring that a doorbell is for."""
    pair = state.pair(doorbell.queue) if doorbell.queue is not None else None
    if pair is None:
        return None
    ring = pair.cq if doorbell.which == DoorbellKind.CQ_HEAD else pair.sq
    return (pair, ring.entries) if ring is not None else None


def in_range(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """A value is an index of its ring."""
    doorbell = seen.record
    assert isinstance(doorbell, Doorbell)
    found = _ring_of(state, doorbell)
    if found is not None and found[1] is not None and doorbell.value >= found[1]:
        yield Proof(f"{_name(doorbell)}: the ring has {found[1]} entries", (seen,))


def moves(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """A doorbell tells something new."""
    doorbell = seen.record
    assert isinstance(doorbell, Doorbell)
    found = _ring_of(state, doorbell)
    if found is None:
        return
    pair, _ = found
    is_head = doorbell.which == DoorbellKind.CQ_HEAD
    old = pair.cq.head if is_head and pair.cq is not None else pair.sq.tail if pair.sq is not None else None
    ring = pair.cq if is_head else pair.sq
    if old == doorbell.value:
        before = (ring.rung,) if ring is not None and ring.rung is not None else ()
        yield Proof(f"{_name(doorbell)}, as it was", (*before, seen))


def has_room(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """The tail stays behind the head that the device last told."""
    doorbell = seen.record
    assert isinstance(doorbell, Doorbell)
    pair = state.pair(doorbell.queue) if doorbell.queue is not None else None
    if pair is None or pair.sq is None or doorbell.which != DoorbellKind.SQ_TAIL:
        return
    ring = pair.sq
    if not ring.entries or ring.tail is None or ring.told_head is None or doorbell.value >= ring.entries:
        return
    if ring.told_head >= ring.entries:
        return  # a fault: the device told a head that there is not
    added = ahead(ring.tail, doorbell.value, ring.entries)
    room = ahead(ring.tail + 1, ring.told_head, ring.entries)
    if added > room:
        message = f"{_name(doorbell)}: {added} entries more, and room for {room} (head {ring.told_head} was told)"
        yield Proof(message, (*((ring.rung,) if ring.rung is not None else ()), seen))


def posted(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """The head passes only entries that are there."""
    doorbell = seen.record
    assert isinstance(doorbell, Doorbell)
    pair = state.pair(doorbell.queue) if doorbell.queue is not None else None
    if pair is None or pair.cq is None or doorbell.which != DoorbellKind.CQ_HEAD:
        return
    ring = pair.cq
    if ring.entries is None or doorbell.value >= ring.entries or doorbell.value == ring.head:
        return
    for slot, phase in ring.steps_to(doorbell.value):
        if not ring.visible(slot, phase):
            yield Proof(f"{_name(doorbell)}: {_absent(ring, slot, phase)}", (*_last(ring, slot), seen))
            return


def _absent(ring: Completions, slot: int, phase: int) -> str:
    what = "phase is not the one awaited" if slot in ring.slots else "no completion was written"
    return f"{what} in slot {slot} (awaited phase {phase})"


def _last(ring: Completions, slot: int) -> tuple[Seen, ...]:
    return (ring.slots[slot],) if slot in ring.slots else ()


def entry_exists(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Entries come from queues that there are, or were when the doorbell was rung."""
    entry = seen.record
    assert isinstance(entry, Entry)
    pair = state.pair(entry.queue)
    old = state.gone.get(entry.queue)
    was_rung = old is not None and old.sq is not None and old.sq.unfetched > 0
    if (pair is None or pair.sq is None) and not was_rung:
        yield Proof(f"an entry of queue {entry.queue}, which does not exist", (seen,))


def entry_written(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """The tail moves over entries that were written."""
    entry = seen.record
    assert isinstance(entry, Entry)
    if entry.data and not any(entry.data):
        yield Proof(f"slot {entry.slot} of queue {entry.queue} has zeros: no entry was written", (seen,))


def cid_free(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """A command id is not used again while its command is outstanding."""
    entry = seen.record
    assert isinstance(entry, Entry)
    pair, cid = state.pair(entry.queue), command_id(entry.queue, entry.data)
    if pair is None or cid is None or cid not in pair.outstanding:
        return
    first = pair.outstanding[cid]
    if pair.id == ADMIN_QUEUE_ID and (cid in pair.faulty or seen.at_s - first.at_s >= state.limits.admin_s):
        return  # timed out: its id is free (spec 01 §6)
    yield Proof(f"command id {cid} of queue {entry.queue} belongs to a command that is outstanding", (first, seen))
