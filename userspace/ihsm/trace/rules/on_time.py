# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Judges of what a driver does when nothing comes, or something has come (spec 01 §5.2, §8)."""

from __future__ import annotations

from collections.abc import Iterator

from ihsm.trace.commands import admin_command
from ihsm.trace.records import Entry
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
    if any(command.opcode in DELETES for _, command in state.commands.values()):
        return  # one queue is deleted after the other, and each may take the time of an admin command
    for pair in state.pairs.values():
        if pair.id == ADMIN_QUEUE_ID or (pair.sq is not None and pair.sq.deleting):
            continue
        for seen in pair.outstanding.values():
            since_s = max(seen.at_s, state.deleting.at_s if state.deleting is not None else 0.0)
            late_s = now.at_s - since_s
            if late_s > state.limits.answer_s:
                message = f"a command of queue {pair.id} was not answered for {late_s:.3f} s, and nothing was done"
                yield Proof(message, (seen,))


def fatal_heeded(state: FunctionState, now: Seen) -> Iterator[Proof]:
    """A controller that says it has failed is reset."""
    if state.fatal is not None:
        late_s = now.at_s - state.fatal.at_s
        if late_s > state.limits.fatal_s:
            yield Proof(f"CSTS.CFS was read {late_s:.3f} s ago, and the controller not reset", (state.fatal,))


def recovery_has_cause(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """A queue is not recovered whose commands have been answered, and the driver told: its wake-up was lost."""
    entry = seen.record
    assert isinstance(entry, Entry)
    command = admin_command(entry.data) if entry.queue == ADMIN_QUEUE_ID else None
    if command is None or command.opcode != AdminOpcode.CREATE_SQ:
        return
    pair = state.pair(command.queue.id)
    if pair is None or pair.last_delete is None or pair.last_idle is None:
        return
    idle_s = pair.last_delete.at_s - pair.last_idle.at_s
    if idle_s > state.limits.idle_s:
        message = f"SQ {pair.id} is deleted and created anew, though all its commands were answered {idle_s:.3f} s ago"
        yield Proof(message, (pair.last_idle, pair.last_delete, seen))
