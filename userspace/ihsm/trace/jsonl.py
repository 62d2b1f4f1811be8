# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings in JSON lines, such as those of the Linux driver in tests/data, as records.

One object a line; `op` says what it is:

| `op` | Fields | Becomes |
|---|---|---|
| `read`, `write` | `bar`, `off`, `size`, `value` | RegisterRead, RegisterWrite, Doorbell |
| `sqe` | `sqid`, `bytes` (hex) | Entry |
| `cqe` | `cqid`, `index`, `bytes`, `vector` | Completion, Interrupt |
| `prp`, `tail` | `sqid`, `cid`, `addr`, `bytes`; of `prp` also `len` | Fetched |
| `sgl` | the same, and `dir` | Fetched |
| `reset` | `type` | Reset, Disconnect |
| `step` | `name` | Mark |

There are no times in it, and no DMA maps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Final

from ihsm.errors import TraceError
from ihsm.trace.commands import admin_command, completion_phase
from ihsm.trace.records import (
    Completion,
    Disconnect,
    Doorbell,
    Entry,
    Interrupt,
    Mark,
    Record,
    RegisterRead,
    RegisterWrite,
    Reset,
)
from ihsm_abi import doorbells
from ihsm_abi.admin import AdminOpcode
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Aqa, Cc, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID
from ihsm_abi.trace import DoorbellKind, TraceKind, TraceReset

LONGEST_LINE: Final = 1 << 20
_LIMITS: Final = {
    "bar": 7, "off": 0xFFFF_FFFF, "size": 0xFFFF, "value": (1 << 64) - 1, "sqid": 0xFFFF, "cqid": 0xFFFF,
    "index": 0xFFFF, "vector": 0xFFFF, "cid": 0xFFFF, "addr": (1 << 64) - 1, "len": 0xFFFF_FFFF, "type": 0xFFFF,
}  # fmt: skip


class Place(StrEnum):
    """What of a command the device has fetched; the names are those of the lines."""

    REQUEST = "prp"
    SOURCE_LIST = "src"
    DESTINATION_LIST = "dst"
    TAIL = "tail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched(Record):
    """What the recorded device read of the client's memory for a command. Only recordings in JSON lines have it."""

    kind: ClassVar = TraceKind.SKIP
    queue: int
    cid: int
    place: Place
    address: int
    length: int
    """Bytes of the whole; of a request `data` may be the beginning."""
    data: bytes

    def encode(self) -> bytes:
        """There are no bytes for it: what lies in memory may be a secret."""
        raise TraceError("what was fetched from memory has no place in a record")


def read_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, Record]]:
    """Records of a recording, each with the number of its line, from 1.

    Raises:
        TraceError: a line is not of the form above; those before it have been given.
    """
    reader = _Reader()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(line) > LONGEST_LINE:
            raise TraceError(f"line {number}: longer than {LONGEST_LINE} bytes")
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            raise TraceError(f"line {number}: no JSON") from None
        if not isinstance(event, dict):
            raise TraceError(f"line {number}: no JSON object")
        try:
            records = list(reader.records(event))
        except TraceError as error:
            raise TraceError(f"line {number}: {error}") from None
        for record in records:
            yield number, record


class _Reader:
    """One recording; it counts what the lines do not tell: the slots of entries."""

    def __init__(self) -> None:
        self._registers: dict[int, int] = {}
        self._entries: dict[int, int] = {}
        """Entries of each submission ring."""
        self._slots: dict[int, int] = {}

    def records(self, event: dict[str, Any]) -> Iterator[Record]:
        match event.get("op"):
            case "read":
                bar, offset, width, value = _numbers(event, "bar", "off", "size", "value")
                yield RegisterRead(region=bar, offset=offset, width=width, value=value)
            case "write":
                yield self._written(*_numbers(event, "bar", "off", "size", "value"))
            case "sqe":
                (queue,) = _numbers(event, "sqid")
                yield self._entry(queue, _bytes(event))
            case "cqe":
                yield from _completion(event)
            case "prp" | "sgl" | "tail" as what:
                yield _fetched(event, what)
            case "reset":
                yield from self._reset(*_numbers(event, "type"))
            case "step":
                yield Mark(text=_text(event, "name"))
            case other:
                raise TraceError(f"op {other!r} is none of read, write, sqe, cqe, prp, sgl, tail, reset, step")

    def _written(self, bar: int, offset: int, width: int, value: int) -> Record:
        if bar == Bar.DOORBELLS and width == doorbells.STRIDE_BYTES:
            doorbell = doorbells.decode(offset)
            which = DoorbellKind.CQ_HEAD if doorbell and doorbell.is_cq_head else DoorbellKind.SQ_TAIL
            queue = doorbell.queue_id if doorbell else None
            return Doorbell(offset=offset, value=value & 0xFFFF_FFFF, queue=queue, which=which)
        if bar == Bar.REGISTERS:
            self._registers[offset] = value
            if offset == Register.CC and Cc(value).en:
                self._entries[ADMIN_QUEUE_ID] = Aqa(self._registers.get(Register.AQA, 0)).asqs + 1
            elif offset in (Register.CC, Register.NSSR):
                self._forget()
        return RegisterWrite(region=bar, offset=offset, width=width, value=value)

    def _entry(self, queue: int, data: bytes) -> Entry:
        slot = self._slots.get(queue, 0)
        self._slots[queue] = (slot + 1) % self._entries.get(queue, 1 << 16)
        command = admin_command(data) if queue == ADMIN_QUEUE_ID else None
        if command is not None and command.opcode == AdminOpcode.CREATE_SQ:
            self._entries[command.queue.id] = command.queue.size + 1
            self._slots[command.queue.id] = 0
        return Entry(queue=queue, slot=slot, data=data)

    def _reset(self, kind: int) -> Iterator[Record]:
        self._forget()
        if kind == TraceReset.LOST_CONNECTION:
            yield Disconnect(pid=0)
            return
        try:
            yield Reset(reset=TraceReset(kind))
        except ValueError:
            raise TraceError(f"reset of type {kind}") from None

    def _forget(self) -> None:
        self._entries.clear()
        self._slots.clear()


def _completion(event: dict[str, Any]) -> Iterator[Record]:
    queue, slot, vector = _numbers(event, "cqid", "index", "vector")
    data = _bytes(event)
    phase = completion_phase(queue, data)
    if phase is None:
        raise TraceError(f"a completion of {len(data)} bytes for queue {queue}")
    yield Completion(queue=queue, slot=slot, vector=vector, phase=phase, data=data)
    yield Interrupt(vector=vector)


def _fetched(event: dict[str, Any], what: str) -> Fetched:
    queue, cid, address = _numbers(event, "sqid", "cid", "addr")
    data = _bytes(event)
    try:
        place = Place(_text(event, "dir") if what == "sgl" else what)
    except ValueError as error:
        raise TraceError(f"dir: {error}") from None
    length = _numbers(event, "len")[0] if what == Place.REQUEST else len(data)
    return Fetched(queue=queue, cid=cid, place=place, address=address, length=length, data=data)


def _numbers(event: dict[str, Any], *names: str) -> list[int]:
    found = []
    for name in names:
        value = event.get(name)
        if type(value) is not int or not 0 <= value <= _LIMITS[name]:
            raise TraceError(f"{name}: {value!r} is no number from 0 to {_LIMITS[name]}")
        found.append(value)
    return found


def _text(event: dict[str, Any], name: str) -> str:
    value = event.get(name)
    if not isinstance(value, str):
        raise TraceError(f"{name}: {value!r} is no text")
    return value


def _bytes(event: dict[str, Any]) -> bytes:
    text = _text(event, "bytes")
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise TraceError("bytes: no hexadecimal digits") from None
