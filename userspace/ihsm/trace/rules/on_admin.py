# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Judges of admin commands: the order of bring-up and teardown, and what queues are made of (spec 01 §6 to §13)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ihsm.trace.commands import AdminCommand, admin_command, form_of
from ihsm.trace.records import Doorbell, Entry
from ihsm.trace.rules.memory import Extent
from ihsm.trace.rules.seen import Proof, Seen
from ihsm.trace.rules.state import DELETES, FunctionState
from ihsm_abi.admin import IDENTIFY_SIZES, AdminOpcode, CreateCqDw11, CreateSqDw11, Feature
from ihsm_abi.pci import AES_VECTORS, HSM_VECTORS, PAGE_BYTES
from ihsm_abi.registers import Cc
from ihsm_abi.resources import (
    ADMIN_QUEUE_ID,
    FIRST_AES_QUEUE_ID,
    FIRST_HSM_QUEUE_ID,
    LAST_AES_QUEUE_ID,
    LAST_HSM_QUEUE_ID,
)
from ihsm_abi.trace import DoorbellKind

CREATES: Final = (AdminOpcode.CREATE_CQ, AdminOpcode.CREATE_SQ)
_SIZES: Final = {
    "cp_iosqes": IDENTIFY_SIZES["cp_sqes"] & 0xF,
    "cp_iocqes": IDENTIFY_SIZES["cp_cqes"] & 0xF,
    "fp_iosqes": IDENTIFY_SIZES["fp_sqes"] & 0xF,
    "fp_iocqes": IDENTIFY_SIZES["fp_cqes"] & 0xF,
}


def _command(seen: Seen) -> AdminCommand | None:
    entry = seen.record
    assert isinstance(entry, Entry)
    return admin_command(entry.data) if entry.queue == ADMIN_QUEUE_ID else None


def _name(command: AdminCommand) -> str:
    return f"{AdminOpcode(command.opcode).name} {command.queue.id}"


def _queue_command(seen: Seen, *opcodes: AdminOpcode) -> AdminCommand | None:
    """The command of an entry, if it is one of these."""
    command = _command(seen)
    return command if command is not None and command.opcode in opcodes else None


def ready_first(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """No command before CSTS.RDY has been read as 1."""
    doorbell = seen.record
    assert isinstance(doorbell, Doorbell)
    if doorbell.which != DoorbellKind.SQ_TAIL or not state.alive or state.settled or state.changed is None:
        return
    before = tuple(one for one in (state.changed, state.csts) if one is not None)
    yield Proof(f"a command for queue {doorbell.queue} before CSTS.RDY was read as 1", (*before, seen))


def prepared(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Queues are created when the controller has been identified and told the sizes of entries."""
    command = _queue_command(seen, *CREATES)
    if command is None or state.began_late:
        return
    if state.identified is None:
        yield Proof(f"{_name(command)}: IDENTIFY has not succeeded since the controller was enabled", (seen,))
    sizes = Cc(state.cc or 0)
    if any(getattr(sizes, name) != size for name, size in _SIZES.items()):
        yield Proof(f"{_name(command)}: CC is {sizes:#010x}, without the entry sizes that IDENTIFY tells", (seen,))


def granted(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Queue ids are those that there are."""
    command = _queue_command(seen, *CREATES)
    if command is None:
        return
    number = command.queue.id
    is_aes = number >= FIRST_AES_QUEUE_ID
    first, last = (FIRST_AES_QUEUE_ID, LAST_AES_QUEUE_ID) if is_aes else (FIRST_HSM_QUEUE_ID, LAST_HSM_QUEUE_ID)
    count = state.granted.get(Feature.AES_QUEUE_COUNT if is_aes else Feature.HSM_QUEUE_COUNT)
    if not first <= number <= last:
        yield Proof(f"{_name(command)}: no queue can have this id", (seen,))
    elif count is None and not state.began_late:
        yield Proof(f"{_name(command)}: SET_FEATURES has not told how many queues there are", (seen,))
    elif count is not None and number >= first + count:
        yield Proof(f"{_name(command)}: only {count} such queues were granted, from id {first}", (seen,))


def create_order(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """First the CQ, then the SQ on the CQ of its id; neither twice."""
    command = _queue_command(seen, *CREATES)
    if command is None:
        return
    pair = state.pair(command.queue.id)
    if command.opcode == AdminOpcode.CREATE_CQ:
        if pair is not None and pair.cq is not None and pair.id != ADMIN_QUEUE_ID:
            yield Proof(f"{_name(command)}: it exists", (pair.cq.created, seen))
        return
    if pair is not None and pair.sq is not None and pair.id != ADMIN_QUEUE_ID:
        yield Proof(f"{_name(command)}: it exists", (pair.sq.created, seen))
    if pair is None or pair.cq is None:
        yield Proof(f"{_name(command)}: its CQ was not created", (seen,))
    cqid = CreateSqDw11(command.dw11).cqid
    if cqid != command.queue.id:
        yield Proof(f"{_name(command)}: on CQ {cqid}; both of a pair have one id", (seen,))


def delete_order(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """First the SQ, then the CQ; neither when it is not there."""
    command = _queue_command(seen, *DELETES)
    if command is None:
        return
    number = command.queue.id
    pair = state.pair(number) if number != ADMIN_QUEUE_ID else None
    if command.opcode == AdminOpcode.DELETE_SQ:
        if pair is None or pair.sq is None:
            yield Proof(f"{_name(command)}: there is no such SQ", (seen,))
    elif pair is None or pair.cq is None:
        yield Proof(f"{_name(command)}: there is no such CQ", (seen,))
    elif pair.sq is not None and pair.sq.deleting is None:
        # One whose DELETE_SQ was refused or not answered is the device's fault, which the driver cannot mend.
        yield Proof(f"{_name(command)}: its SQ was not deleted", (pair.sq.created, seen))


def contiguous(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Rings are contiguous, have two entries or more, and begin a page."""
    command = _queue_command(seen, *CREATES)
    if command is None:
        return
    is_cq = command.opcode == AdminOpcode.CREATE_CQ
    pc = CreateCqDw11(command.dw11).pc if is_cq else CreateSqDw11(command.dw11).pc
    if not pc:
        yield Proof(f"{_name(command)}: PC is 0", (seen,))
    if not command.queue.size:
        yield Proof(f"{_name(command)}: a ring of one entry", (seen,))


def ring_aligned(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Rings and the identify page begin a page."""
    command = _queue_command(seen, *CREATES, AdminOpcode.IDENTIFY)
    if command is not None and (not command.prp1 or command.prp1 % PAGE_BYTES):
        name = "IDENTIFY" if command.opcode == AdminOpcode.IDENTIFY else _name(command)
        yield Proof(f"{name}: PRP1 is {command.prp1:#x}, no address of a {PAGE_BYTES}-byte page", (seen,))


def ring_apart(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Rings do not lie in each other."""
    command = _queue_command(seen, *CREATES)
    if command is None or not command.prp1:
        return
    form = form_of(command.queue.id)
    layout = form.cqe if command.opcode == AdminOpcode.CREATE_CQ else form.sqe
    new = Extent("ring", command.prp1, (command.queue.size + 1) * int(layout.itemsize))
    for extent, created in state.live_rings():
        if extent.overlaps(new.iova, new.size):
            yield Proof(f"{_name(command)}: its ring at {new.iova:#x} overlaps {extent}", (created, seen))


def vector(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """The vectors of a class of queues are its own."""
    command = _queue_command(seen, AdminOpcode.CREATE_CQ)
    if command is None:
        return
    dw11 = CreateCqDw11(command.dw11)
    vectors = AES_VECTORS if command.queue.id >= FIRST_AES_QUEUE_ID else HSM_VECTORS
    if dw11.ien and dw11.ivec not in vectors:
        yield Proof(f"{_name(command)}: vector {dw11.ivec}, one of {vectors[0]} to {vectors[-1]} expected", (seen,))


def reserved(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Bits of the command's own words that it has no use for."""
    command = _command(seen)
    if command is None:
        return
    masks = _UNUSED.get(command.opcode)
    if masks is None:
        return
    for name, mask in zip(("dw10", "dw11"), masks, strict=True):
        if wrong := getattr(command, name) & mask:
            yield Proof(f"opcode {command.opcode:#04x}: {name} has the reserved bits {wrong:#010x}", (seen,))


_ALL: Final = 0xFFFF_FFFF
_UNUSED: Final[dict[int, tuple[int, int]]] = {
    AdminOpcode.DELETE_SQ: (0xFFFF_0000, _ALL),
    AdminOpcode.DELETE_CQ: (0xFFFF_0000, _ALL),
    AdminOpcode.CREATE_SQ: (0, _ALL & ~CreateSqDw11.of(pc=1, qprio=3, cqid=0xFFFF)),
    AdminOpcode.CREATE_CQ: (0, _ALL & ~CreateCqDw11.of(pc=1, ien=1, ivec=0xFFFF)),
    AdminOpcode.IDENTIFY: (0x0000_FF00, _ALL),
    AdminOpcode.SET_FEATURES: (0xFFFF_FF00, 0),
    AdminOpcode.GET_FEATURES: (0xFFFF_FF00, _ALL),
}
