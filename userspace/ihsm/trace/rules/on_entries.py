# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Judges of what stands in entries (spec 01 §6.1, 02 B.1, B.4, C.1, C.2, C.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from ihsm.trace.commands import form_of
from ihsm.trace.records import Entry
from ihsm.trace.rules import on_admin
from ihsm.trace.rules.seen import Proof, Seen
from ihsm.trace.rules.state import FunctionState
from ihsm_abi.admin import ADMIN_SQE, AdminOpcode
from ihsm_abi.aes_queue import (
    CMD_TYPE_FAST_PATH,
    FRAME_TYPE_AES,
    GCM_SQE,
    SGL_DESCRIPTOR,
    TAIL_MAX_BYTES,
    XTS_SQE,
    AesAttr,
    Cipher,
    SglType,
)
from ihsm_abi.hsm_queue import HSM_SQE, ControlKind, HsmCommandWord, HsmOpcode, SessionControl
from ihsm_abi.pci import PAGE_BYTES
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID

_WITH_MORE_WORDS: Final = frozenset(range(AdminOpcode.SET_RES_CNT, AdminOpcode.VF_RESTORE + 1))
"""Admin commands whose dwords 12 to 15 mean something (spec 01 §6.9)."""


def _gaps(layout: np.dtype[Any], base: int = 0) -> set[int]:
    """Offsets of the bytes of an entry that no field has."""
    covered: set[int] = set()
    for name in layout.names or ():
        assert layout.fields is not None
        field, offset = layout.fields[name][:2]
        if field.names:
            covered |= set(range(offset, offset + field.itemsize)) - {offset + gap for gap in _gaps(field)}
        else:
            covered |= set(range(offset, offset + field.itemsize))
    return set(range(layout.itemsize)) - covered


_GAPS: Final = {id(layout): sorted(_gaps(layout)) for layout in (ADMIN_SQE, HSM_SQE, GCM_SQE, XTS_SQE)}
_AES_ATTR_BITS: Final = AesAttr.of(decrypt=1, psdt=1, cmd_type=7, cipher=1, dul=3)
_CONTROL_BITS: Final = SessionControl.of(kind=3, id_valid=1)


def _layout(entry: Entry) -> np.dtype[Any] | None:
    """The fields of an entry; None if it has not the length of one."""
    form = form_of(entry.queue)
    if len(entry.data) != form.sqe.itemsize:
        return None
    if entry.queue < FIRST_AES_QUEUE_ID:
        return form.sqe
    attr = AesAttr(int(np.frombuffer(entry.data, form.sqe)["attr"][0]))
    return XTS_SQE if attr.cipher == Cipher.XTS else GCM_SQE


def _sqe(seen: Seen) -> tuple[Entry, np.dtype[Any], Any] | None:
    """Entry, layout and fields."""
    entry = seen.record
    assert isinstance(entry, Entry)
    layout = _layout(entry)
    return (entry, layout, np.frombuffer(entry.data, layout)[0]) if layout is not None else None


def reserved(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Whatever no field has is 0."""
    found = _sqe(seen)
    if found is None:
        return
    entry, layout, sqe = found
    wrong = [at for at in _GAPS[id(layout)] if entry.data[at]]
    if wrong:
        places = ", ".join(map(str, wrong))
        yield Proof(f"an entry of queue {entry.queue} has reserved bytes that are not 0: {places}", (seen,))
    for message in _reserved_bits(entry, sqe):
        yield Proof(f"an entry of queue {entry.queue}: {message}", (seen,))
    yield from on_admin.reserved(state, seen)


def _reserved_bits(entry: Entry, sqe: Any) -> Iterator[str]:
    if entry.queue == ADMIN_QUEUE_ID:
        unused = ["flags", "mptr", "prp2"]
        if int(sqe["opc"]) not in _WITH_MORE_WORDS:
            unused += ["dw12", "dw13", "dw14", "dw15"]
        for name in unused:
            if sqe[name]:
                yield f"{name} is {int(sqe[name]):#x}"
    elif entry.queue < FIRST_AES_QUEUE_ID:
        if psdt := HsmCommandWord(int(sqe["command"])).psdt:
            yield f"psdt is {psdt}"
        if bits := int(sqe["control"]) & ~_CONTROL_BITS:
            yield f"session control has the bits {bits:#04x}"
    else:
        attr = AesAttr(int(sqe["attr"]))
        if bits := attr & ~_AES_ATTR_BITS:
            yield f"attr has the bits {bits:#06x}"
        if attr.cipher == Cipher.GCM and attr.dul:
            yield f"a data unit code ({attr.dul}) with GCM"


def hsm_control(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Session control flags fit the kind of command."""
    found = _sqe(seen)
    if found is None or found[1] is not HSM_SQE:
        return
    entry, _, sqe = found
    control, session = SessionControl(int(sqe["control"])), int(sqe["session_id"])
    word = HsmCommandWord(int(sqe["command"]))
    where = f"an entry of queue {entry.queue}"
    if word.opc == HsmOpcode.FLUSH_SESSION and (control.kind != ControlKind.CLOSE or not control.id_valid):
        yield Proof(f"{where}: a flush with control flags {control:#04x}", (seen,))
    elif control.kind == ControlKind.NONE and (control.id_valid or session):
        yield Proof(f"{where}: no session, and id {session}, valid {control.id_valid}", (seen,))
    elif control.kind in (ControlKind.CLOSE, ControlKind.IN_SESSION) and not control.id_valid:
        yield Proof(f"{where}: {ControlKind(control.kind).name} without a valid session id", (seen,))


def prps(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Pages of an HSM command: aligned, as many as the length needs."""
    found = _sqe(seen)
    if found is None or found[1] is not HSM_SQE:
        return
    entry, _, sqe = found
    for side in ("src", "dst"):
        length = int(sqe[f"{side}_len"])
        for number in (1, 2):
            name, address = f"{side}_prp{number}", int(sqe[f"{side}_prp{number}"])
            where = f"an entry of queue {entry.queue}: {name} is {address:#x}"
            needed = length > (number - 1) * PAGE_BYTES
            if address % PAGE_BYTES:
                yield Proof(f"{where}, no address of a {PAGE_BYTES}-byte page", (seen,))
            elif needed != bool(address):
                yield Proof(f"{where} for {length} bytes", (seen,))


def aes_words(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """What every AES command says, and its tails."""
    found = _sqe(seen)
    if found is None or found[0].queue < FIRST_AES_QUEUE_ID:
        return
    entry, layout, sqe = found
    attr = AesAttr(int(sqe["attr"]))
    where = f"an entry of queue {entry.queue}"
    if attr.cmd_type != CMD_TYPE_FAST_PATH:
        yield Proof(f"{where}: command type {attr.cmd_type}, {CMD_TYPE_FAST_PATH} expected", (seen,))
    if sqe["frame_type"] != FRAME_TYPE_AES:
        yield Proof(f"{where}: frame type {int(sqe['frame_type'])}, {FRAME_TYPE_AES} expected", (seen,))
    if layout is not GCM_SQE:
        return
    source, destination = int(sqe["tail_src_len"]), int(sqe["tail_dst_len"])
    if source != destination or source > TAIL_MAX_BYTES:
        yield Proof(f"{where}: tails of {source} and {destination} bytes", (seen,))
    for side, length in (("src", source), ("dst", destination)):
        address = int(sqe[f"tail_{side}_addr"])
        if bool(address) != bool(length):
            yield Proof(f"{where}: a tail of {length} bytes at {address:#x}", (seen,))


def lists(state: FunctionState, seen: Seen) -> Iterator[Proof]:
    """Data pointers of an AES command are blocks of data, or lead to a segment of descriptors, in one page."""
    found = _sqe(seen)
    if found is None or found[0].queue < FIRST_AES_QUEUE_ID or not AesAttr(int(found[2]["attr"])).psdt:
        return
    entry, _, sqe = found
    for side in ("src", "dst"):
        descriptor = sqe[side]
        address, length, kind = int(descriptor["addr"]), int(descriptor["len"]), int(descriptor["type"])
        where = f"an entry of queue {entry.queue}: {side} list at {address:#x}, {length} bytes"
        if not (address or length or kind):
            if sqe[f"{side}_len"]:
                yield Proof(f"an entry of queue {entry.queue}: no {side} list for {sqe[f'{side}_len']} bytes", (seen,))
            continue
        if kind == SglType.DATA_BLOCK << 4:
            if length != sqe[f"{side}_len"]:
                yield Proof(f"{where}: a block of data for {sqe[f'{side}_len']} bytes", (seen,))
            continue
        if kind not in (SglType.SEGMENT << 4, SglType.LAST_SEGMENT << 4):
            yield Proof(f"{where}: type {kind:#04x} is none of data block, segment and last segment", (seen,))
        if not length or length % SGL_DESCRIPTOR.itemsize or address % SGL_DESCRIPTOR.itemsize:
            yield Proof(f"{where}: no whole descriptors", (seen,))
        elif address % PAGE_BYTES + length > PAGE_BYTES:
            yield Proof(f"{where}: it crosses a page", (seen,))
