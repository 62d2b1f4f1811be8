# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The driver's side of a recording without what differs from run to run, so that two can be compared.

Of addresses only their place in a page stays, and whether there is one; command ids and times are left out, as are
polls: reads of CSTS beyond the first, and those of a health monitor. Commands that were outstanding together have no
order, for it is chance. Of the device's side nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ihsm.trace.commands import admin_command, command_id, ends_queues
from ihsm.trace.decoding import layout_of
from ihsm.trace.files import Numbered
from ihsm.trace.jsonl import Fetched, Place
from ihsm.trace.records import Doorbell, Entry, Mark, Record, RegisterAccess, RegisterRead, Request, Reset
from ihsm_abi import doorbells
from ihsm_abi.admin import AdminOpcode
from ihsm_abi.aes_queue import SGL_DESCRIPTOR, SglType
from ihsm_abi.ddi import decode_request_header
from ihsm_abi.mbor import MborDecodeError
from ihsm_abi.pci import PAGE_BYTES, Bar
from ihsm_abi.registers import Register
from ihsm_abi.resources import ADMIN_QUEUE_ID
from ihsm_abi.trace import CONFIG_REGION, DoorbellKind, TraceReset
from ihsm_abi.trace_fields import COMMAND_IDS, bit_fields, fields_of

_HIDDEN: Final = (Register.CAP, Register.VS, Register.CSTS)
"""Registers whose values are the device's, whichever it is."""
_ADDRESSES: Final = (Register.ASQ, Register.ACQ)
_POINTERS: Final = frozenset(
    {
        "prp1", "prp2", "src_prp1", "src_prp2", "dst_prp1", "dst_prp2", "src.addr", "dst.addr", "tail_src_addr",
        "tail_dst_addr",
    }
)  # fmt: skip
"""Fields of entries that have an address."""
Fields = dict[str, Any]


@dataclass(slots=True)
class Step:
    """One thing that the driver did."""

    numbered: Numbered
    subject: tuple[Any, ...]
    """What it is about: a step of another value has the same."""
    fields: Fields
    """Its values, by name."""
    content: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    """Of a command, what it led the device to; not every recording has all of it."""
    after: str = ""
    """Text of the last mark before it."""

    @property
    def number(self) -> int:
        """Place of the record in its recording."""
        return self.numbered.number

    @property
    def record(self) -> Record:
        """The record."""
        return self.numbered.record

    @property
    def key(self) -> tuple[Any, ...]:
        """What is the same in a step that does the same."""
        return (*self.subject, *self.fields.items())


def driver_side(records: Iterable[Numbered]) -> list[Step]:
    """What the driver did, in a form in which equal behaviour is equal."""
    steps = list(_without_polls(list(_steps(records))))
    return list(_Overlaps().ordered(steps))


def _in_page(address: int) -> int | None:
    """Where in its page an address is; None for no address."""
    return address % PAGE_BYTES if address else None


def _steps(records: Iterable[Numbered]) -> Iterator[Step]:
    last: dict[tuple[int, int], Step] = {}
    """The last command of each queue and command id."""
    mark = ""
    for numbered in records:
        record = numbered.record
        match record:
            case RegisterAccess() if record.region != CONFIG_REGION:
                yield _access(numbered, record, mark)
            case Doorbell():
                subject = ("write", Bar.DOORBELLS, record.offset)
                yield Step(numbered, subject, {"width": doorbells.STRIDE_BYTES, "value": record.value}, after=mark)
            case Entry():
                step = Step(numbered, ("entry", record.queue, *_kind_of(record)), _entry(record), after=mark)
                last[record.queue, command_id(record.queue, record.data) or 0] = step
                yield step
            case Fetched() | Request() if (record.queue, record.cid) in last:
                for name, value in _content(record).items():
                    content = last[record.queue, record.cid].content
                    content[name] = content.get(name, ()) + value
            case Reset(reset=TraceReset.FUNCTION_LEVEL):
                yield Step(numbered, ("function level reset",), {}, after=mark)
            case Mark():
                mark = record.text


def _access(numbered: Numbered, record: RegisterAccess, mark: str) -> Step:
    value: int | None = record.value
    if record.region == Bar.REGISTERS and record.offset in _HIDDEN:
        value = None
    elif record.region == Bar.REGISTERS and record.offset in _ADDRESSES:
        value = _in_page(record.value)
    verb = "read" if isinstance(record, RegisterRead) else "write"
    return Step(numbered, (verb, record.region, record.offset), {"width": record.width, "value": value}, after=mark)


def _kind_of(entry: Entry) -> tuple[Any, ...]:
    """Of an admin entry its opcode."""
    command = admin_command(entry.data) if entry.queue == ADMIN_QUEUE_ID else None
    return (command.opcode,) if command is not None else ()


def _entry(entry: Entry) -> Fields:
    """Fields of an entry by name, and what no field has."""
    layout = layout_of(entry)
    if layout is None:
        return {"bytes": entry.data.hex()}
    found: Fields = {}
    rest = bytearray(entry.data)
    for part in fields_of(layout):
        value, end = part.read(entry.data), part.offset + part.size
        if part.path not in layout.words:
            found[part.path] = _in_page(value) if part.path in _POINTERS and isinstance(value, int) else value
            if part.mask is None:
                rest[part.offset : end] = bytes(part.size)
        elif isinstance(value, int):  # the bits of a word that have no name stay
            named = sum(bits.mask << bits.low for _, bits in bit_fields(layout.words[part.path]))
            rest[part.offset : end] = (value & ~named).to_bytes(part.size, "little")
    del found[COMMAND_IDS[layout.name]]
    return found | {"reserved": bytes(rest)}


def _content(record: Fetched | Request) -> dict[str, tuple[Any, ...]]:
    """What a command led the device to, under a name that both kinds of recordings use."""
    if isinstance(record, Request):
        return {"request": (record.length, _operation(record.message))}
    where = _in_page(record.address)
    match record.place:
        case Place.REQUEST:
            told = (record.length, _operation(record.data))
            return {"request": told, "request's bytes": (where, record.data.hex())}
        case Place.TAIL:
            return {"tail": (where, record.data.hex())}
        case _:
            return {f"{record.place} list": _segment(record)}


def _operation(message: bytes) -> int | None:
    try:
        return decode_request_header(message)[0].op
    except MborDecodeError:
        return None


def _segment(record: Fetched) -> tuple[Any, ...]:
    """Descriptors; one that leads on is told by how far behind its own segment the next one lies."""
    found: list[Any] = [_in_page(record.address)]
    whole = len(record.data) // SGL_DESCRIPTOR.itemsize * SGL_DESCRIPTOR.itemsize
    for descriptor in np.frombuffer(record.data[:whole], SGL_DESCRIPTOR):
        leads_on = descriptor["type"] >> 4 != SglType.DATA_BLOCK
        address = int(descriptor["addr"])
        place = address - record.address if leads_on else _in_page(address or PAGE_BYTES)
        found.append((place, int(descriptor["len"]), int(descriptor["type"])))
    return tuple(found)


def _is_poll(step: Step) -> bool:
    return step.subject == ("read", Bar.REGISTERS, Register.CSTS)


def _without_polls(steps: list[Step]) -> Iterator[Step]:
    """Reads of CSTS that belong to what is done: one each time, and none of a health monitor's.

    Such a one is the first of all, behind a read of CAP (waiting for RDY), or before a DELETE_SQ (level-1 abort), which
    a device that was reset meanwhile does not fetch.
    """
    once = [step for at, step in enumerate(steps) if not (_is_poll(step) and at and _is_poll(steps[at - 1]))]
    for at, step in enumerate(once):
        if not _is_poll(step):
            yield step
            continue
        before = once[at - 1].subject if at else None
        if before in (None, ("read", Bar.REGISTERS, Register.CAP)) or _begins_abort(once[at + 1 : at + 3]):
            yield step


def _begins_abort(steps: list[Step]) -> bool:
    subjects = [step.subject for step in steps]
    if not subjects or subjects[0] != _ADMIN_TAIL:
        return False
    is_other = len(subjects) == 2 and subjects[1][:2] == ("entry", ADMIN_QUEUE_ID) and subjects[1] != _DELETE_SQ
    return not is_other


_DELETE_SQ: Final = ("entry", ADMIN_QUEUE_ID, AdminOpcode.DELETE_SQ)
_ADMIN_TAIL: Final = ("write", Bar.DOORBELLS, doorbells.sq_tail_offset(ADMIN_QUEUE_ID))


class _Overlaps:
    """Finds the commands of I/O queues that were outstanding together, as doorbells tell, and puts them in order."""

    def __init__(self) -> None:
        self._entries: dict[int, int] = {}
        """Entries of the completion rings."""
        self._heads: dict[int, int] = {}
        self._outstanding: dict[int, int] = {}
        self._together: list[Step] = []

    def ordered(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The steps; those of commands outstanding together by queue and value."""
        for step in steps:
            queue = _io_queue(step)
            if queue is None:
                yield from self._end()
                self._administer(step)
                yield step
                continue
            self._together.append(step)
            self._count(queue, step)
            if _is_head(step) and not any(self._outstanding.values()):
                yield from self._end()
        yield from self._end()

    def _count(self, queue: int, step: Step) -> None:
        record = step.record
        if isinstance(record, Entry):
            self._outstanding[queue] = self._outstanding.get(queue, 0) + 1
        elif isinstance(record, Doorbell) and record.which == DoorbellKind.CQ_HEAD and queue in self._entries:
            taken = (record.value - self._heads.get(queue, 0)) % self._entries[queue]
            self._heads[queue] = record.value
            self._outstanding[queue] = max(0, self._outstanding.get(queue, 0) - taken)

    def _end(self) -> Iterator[Step]:
        together, self._together = self._together, []
        commands = [step for step in together if isinstance(step.record, Entry)]
        if len(commands) <= 1:
            yield from together
            return
        # In which order threads come and completions are taken is chance; how often the head was told is, too.
        heads = {step.subject: step for step in together if _is_head(step)}
        tails = [step for step in together if not isinstance(step.record, Entry) and not _is_head(step)]
        yield from sorted(tails, key=lambda step: step.subject)
        yield from sorted(commands, key=lambda step: repr((step.key, sorted(step.content.items()))))
        yield from sorted(heads.values(), key=lambda step: step.subject)

    def _administer(self, step: Step) -> None:
        """Queues that begin and end."""
        record = step.record
        if isinstance(record, Entry) and (command := admin_command(record.data)) is not None:
            queue = command.queue.id
            if command.opcode == AdminOpcode.CREATE_CQ:
                self._entries[queue] = command.queue.size + 1
                self._heads[queue] = 0
            elif command.opcode == AdminOpcode.DELETE_SQ:
                self._outstanding.pop(queue, None)
        elif isinstance(record, Reset) or ends_queues(record):
            self._outstanding.clear()


def _is_head(step: Step) -> bool:
    return isinstance(step.record, Doorbell) and step.record.which == DoorbellKind.CQ_HEAD


def _io_queue(step: Step) -> int | None:
    """The I/O queue that a step is about; None for anything else."""
    record = step.record
    queue = record.queue if isinstance(record, Entry | Doorbell) else None
    return queue if queue != ADMIN_QUEUE_ID else None
