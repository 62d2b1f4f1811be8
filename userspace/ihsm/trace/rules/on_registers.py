# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Judges of register accesses: where, how wide, with what, and in which order (spec 01 §2, §4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ihsm.trace.records import RegisterAccess, RegisterRead, RegisterWrite
from ihsm.trace.rules.seen import Proof, Seen
from ihsm.trace.rules.state import RING_REGISTERS, FunctionState
from ihsm_abi.pci import PAGE_BYTES, Bar
from ihsm_abi.registers import NSSR_MAGIC, Access, Aqa, Cc, Register

_HALF: Final = 4
_PROGRAMMED: Final = 0xFFFF_0001
"""Bits of CC that a driver chooses: EN and the entry sizes."""


def _register_at(access: RegisterAccess) -> Register | None:
    """The register that an access of BAR0 begins in."""
    for register in Register:
        if register <= access.offset < register + register.width:
            return register
    return None


def _what(access: RegisterAccess) -> str:
    verb = "read" if isinstance(access, RegisterRead) else "write"
    return f"{access.width}-byte {verb} at BAR{access.region} offset {access.offset:#x}"


def width(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Whole registers, or 32-bit halves of those that have 64 bits."""
    access = seen.record
    assert isinstance(access, RegisterAccess)
    register = _register_at(access) if access.region == Bar.REGISTERS else None
    if register is None:
        return
    is_whole = access.offset == register and access.width == register.width
    is_half = access.width == _HALF and access.offset % _HALF == 0
    if not (is_whole or is_half):
        yield Proof(f"{_what(access)}: {register.name} has {register.width} bytes at {int(register):#x}", (seen,))


def reserved(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Only registers that there are, and written only where a write does something."""
    access = seen.record
    assert isinstance(access, RegisterAccess)
    if access.region != Bar.REGISTERS:
        return
    register = _register_at(access)
    if register is None:
        yield Proof(f"{_what(access)}, which is reserved", (seen,))
    elif isinstance(access, RegisterWrite) and register.access is Access.READ_ONLY:
        yield Proof(f"{_what(access)}: {register.name} is read only", (seen,))


def doorbell_access(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Doorbells come as records of their own; any other access of their BAR is a wrong one."""
    access = seen.record
    assert isinstance(access, RegisterAccess)
    if access.region == Bar.DOORBELLS:
        yield Proof(f"{_what(access)}: a doorbell is written, 4 bytes at a time", (seen,))


def cc_kept(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Bits of CC that are not the driver's stay as they were."""
    access = seen.record
    assert isinstance(access, RegisterWrite)
    if access.region != Bar.REGISTERS or access.offset != Register.CC:
        return
    changed = (access.value ^ (state.cc or 0)) & ~_PROGRAMMED & 0xFFFF_FFFF
    if changed and not (state.began_late and state.cc is None):
        yield Proof(f"CC is written as {access.value:#010x}, which changes the bits {changed:#010x}", (seen,))


def nssr_magic(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """NSSR takes one value."""
    access = seen.record
    assert isinstance(access, RegisterWrite)
    if access.region == Bar.REGISTERS and access.offset == Register.NSSR and access.value != NSSR_MAGIC:
        yield Proof(f"NSSR is written as {access.value:#x}, not {NSSR_MAGIC:#x}", (seen,))


def rings_held(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """The registers of the admin rings are left alone while the controller has them."""
    access = seen.record
    assert isinstance(access, RegisterWrite)
    register = _register_at(access) if access.region == Bar.REGISTERS else None
    if register in RING_REGISTERS and state.alive:
        before = (state.changed,) if state.changed is not None else ()
        yield Proof(f"{register.name} is written while CC.EN is 1", (*before, seen))


def _enables(state: FunctionState, seen: Seen) -> bool:
    access = seen.record
    assert isinstance(access, RegisterWrite)
    is_cc = access.region == Bar.REGISTERS and access.offset == Register.CC
    return is_cc and bool(Cc(access.value).en) and not state.alive


def enable_ready(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """A controller is enabled when it has been seen not ready."""
    if not _enables(state, seen) or state.settled:
        return
    before = tuple(one for one in (state.changed, state.csts) if one is not None)
    said = "CSTS was not read" if state.csts is None else "CSTS.RDY read 1"
    yield Proof(f"CC.EN is set, but {said} since the controller was last disabled or reset", (*before, seen))


def enable_order(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """The admin rings are told before the controller is enabled."""
    if not _enables(state, seen):
        return
    missing = [register.name for register in RING_REGISTERS if register not in state.fresh]
    if missing:
        yield Proof(f"CC.EN is set, but {', '.join(missing)} was not written since the last enable", (seen,))


def admin_rings(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Sizes and places of the admin rings."""
    if not _enables(state, seen):
        return
    for register in (Register.ASQ, Register.ACQ):
        address = state.written.get(register)
        if address is not None and (not address or address % PAGE_BYTES):
            message = f"{register.name} is {address:#x}, no address of a {PAGE_BYTES}-byte page"
            yield Proof(message, (*_written(state, register), seen))
    if Register.AQA in state.written:
        aqa = Aqa(state.written[Register.AQA])
        records = (*_written(state, Register.AQA), seen)
        if not aqa.asqs or not aqa.acqs:
            yield Proof(f"AQA is {aqa:#010x}: an admin ring of one entry", records)
        if rest := aqa & ~Aqa.of(asqs=0xFFF, acqs=0xFFF):
            yield Proof(f"AQA is {aqa:#010x}: the bits {rest:#010x} are reserved", records)


def _written(state: FunctionState, register: Register) -> tuple[Seen, ...]:
    return (state.fresh[register],) if register in state.fresh else ()
