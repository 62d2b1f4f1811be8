# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Judges of what a driver does when nothing comes, or something has come (spec 01 §5.2, §8)."""

from __future__ import annotations

from collections.abc import Iterator

from ihsm.trace.commands import AdminCommand, admin_command, ends_queues
from ihsm.trace.records import Disconnect, Entry, Reset
from ihsm.trace.rules.queues import Pair
from ihsm.trace.rules.seen import Proof, Seen
from ihsm.trace.rules.state import DELETES, FunctionState
from ihsm_abi.admin import AdminOpcode
from ihsm_abi.resources import ADMIN_QUEUE_ID


def head_moves(state: FunctionState, now: Seen) -> Iterator[Proof]:
    """Who is interrupted takes what is there."""
    for pair in state.pairs.values():
        ring = pair.cq
        if ring is None or ring.signalled is None or not ring.waiting or (pair.sq and pair.sq.deleting):
            continue
        late_s = now.real_s - ring.signalled.real_s
        if late_s > state.limits.head_s:
            message = f"the head of CQ {pair.id} has not moved for {late_s:.3f} s after an interrupt"
            yield Proof(message, (ring.waiting[0], ring.signalled))


def recovers(state: FunctionState, now: Seen) -> Iterator[Proof]:
    """A command that is not answered is not waited for for ever."""
    admin = state.pair(ADMIN_QUEUE_ID)
    is_coming = admin is not None and admin.sq is not None and admin.sq.unfetched > 0
    if is_coming or _has_deletes(state):
        return
    for pair in state.pairs.values():
        yield from _late(state, pair, now)


def _has_deletes(state: FunctionState) -> bool:
    """Whether a queue is being deleted: one is after the other, and each may take the time of an admin command."""
    return any(command.opcode in DELETES for _, command in state.commands.values())


def recovers_in_time(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """The same of the commands that end with a record."""
    command = _admin(seen)
    if command is not None and command.opcode == AdminOpcode.DELETE_SQ:
        pair = state.pair(command.queue.id)
        if pair is not None and not _has_deletes(state):
            yield from _late(state, pair, seen)
    elif ends_queues(seen.record) or (isinstance(seen.record, Reset | Disconnect) and state.moved is None):
        yield from recovers(state, seen)


def _late(state: FunctionState, pair: Pair, now: Seen) -> Iterator[Proof]:
    """Commands of a queue that have waited for too long, since the last queue was deleted."""
    if pair.id == ADMIN_QUEUE_ID or (pair.sq is not None and pair.sq.deleting):
        return
    for seen in pair.outstanding.values():
        since = max(filter(None, (seen, state.deleting)), key=lambda one: one.number)
        late_s = state.passed_s(since, now)
        if late_s > state.limits.answer_s:
            message = f"a command of queue {pair.id} was not answered for {late_s:.3f} s, and nothing was done"
            yield Proof(message, (seen,))


def recovers_by_now(state: FunctionState, now: Seen) -> Iterator[Proof]:
    """The same while time passes by itself: where marks add it, nobody knows how long the driver takes to see that."""
    if state.moved is None:
        yield from recovers(state, now)


def fatal_heeded(state: FunctionState, now: Seen) -> Iterator[Proof]:
    """A controller that says it has failed is reset."""
    if state.fatal is not None:
        late_s = state.passed_s(state.fatal, now)
        if late_s > state.limits.fatal_s:
            yield Proof(f"CSTS.CFS was read {late_s:.3f} s ago, and the controller not reset", (state.fatal,))


def fatal_heeded_in_time(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """The same when it is reset."""
    if ends_queues(seen.record):
        yield from fatal_heeded(state, seen)


def fatal_heeded_by_now(state: FunctionState, now: Seen) -> Iterator[Proof]:
    """The same while time passes by itself."""
    if state.moved is None:
        yield from fatal_heeded(state, now)


def recovery_has_cause(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """A queue is not recovered whose commands have been answered, and the driver told: its wake-up was lost."""
    command = _admin(seen)
    if command is None or command.opcode != AdminOpcode.CREATE_SQ:
        return
    pair = state.pair(command.queue.id)
    if pair is None or pair.last_delete is None or pair.last_idle is None:
        return
    idle_s = pair.idle_s
    if idle_s > state.limits.idle_s:
        message = f"SQ {pair.id} is deleted and created anew, though all its commands were answered {idle_s:.3f} s ago"
        yield Proof(message, (pair.last_idle, pair.last_delete, seen))


def _admin(seen: Seen) -> AdminCommand | None:
    """The admin command that a record has."""
    entry = seen.record
    return admin_command(entry.data) if isinstance(entry, Entry) and entry.queue == ADMIN_QUEUE_ID else None
