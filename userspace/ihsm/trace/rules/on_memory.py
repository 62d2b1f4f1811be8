# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Judges of memory: what the device may use is reachable as long as it may (spec 01 §8.2, §13, 02 D)."""

from __future__ import annotations

from collections.abc import Iterator

from ihsm.trace.commands import admin_command, form_of
from ihsm.trace.records import Entry, RegisterWrite
from ihsm.trace.rules.memory import Extent, named_by
from ihsm.trace.rules.on_admin import CREATES
from ihsm.trace.rules.seen import Proof, Seen
from ihsm.trace.rules.state import FunctionState, Suspect
from ihsm_abi.admin import AdminOpcode
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Cc, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID


def reachable(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """What an entry names is mapped when the device has the entry."""
    entry = seen.record
    assert isinstance(entry, Entry)
    extents = named_by(entry.queue, entry.data)
    command = admin_command(entry.data) if entry.queue == ADMIN_QUEUE_ID else None
    if command is not None and command.opcode in CREATES:
        form = form_of(command.queue.id)
        layout = form.cqe if command.opcode == AdminOpcode.CREATE_CQ else form.sqe
        extents.append(Extent("ring", command.prp1, (command.queue.size + 1) * int(layout.itemsize)))
    for extent in extents:
        gap = state.mappings.gap(extent)
        if gap is not None:
            yield Proof(f"an entry of queue {entry.queue} names {extent}: {gap:#x} is not mapped", (seen,))


def rings_kept(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Rings stay mapped until their queues are deleted or the controller is disabled, unless the client goes away."""
    return map(_suspicion_of_ring, state.ring_suspects)


def _suspicion_of_ring(suspect: Suspect) -> Proof:
    return Proof(f"{suspect.extent} was unmapped while the device had it", (suspect.given, suspect.unmap))


def in_use(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """What a command names stays mapped until it is answered, or its queue deleted, or the controller disabled."""
    for suspect in state.suspects:
        if seen.real_s - suspect.unmap.real_s >= state.limits.release_s:
            yield _suspicion(suspect)


def in_use_at_the_end(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """No disable follows any more."""
    yield from map(_suspicion, state.suspects)


def _suspicion(suspect: Suspect) -> Proof:
    message = f"{suspect.extent} was unmapped while its command was outstanding"
    return Proof(message, (suspect.given, suspect.unmap))


def left_behind(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """What a driver has mapped it unmaps before it leaves: known when it comes again, or the client goes."""
    record = seen.record
    if isinstance(record, RegisterWrite):
        is_cc = record.region == Bar.REGISTERS and record.offset == Register.CC
        if not is_cc or not Cc(record.value).en or state.alive:
            return
    if state.torn_down is None or state.shared_mappings:
        return
    kept = [state.written.get(Register.ASQ), state.written.get(Register.ACQ)]
    for mapping in state.mappings:
        is_used = any(place is not None and mapping.iova <= place < mapping.iova + mapping.size for place in kept)
        if mapping.own and mapping.seen.number < state.torn_down.number and not is_used:
            message = f"{mapping.size} bytes at {mapping.iova:#x} are still mapped after the driver has left"
            yield Proof(message, (mapping.seen, state.torn_down, seen))
