# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Records of a trace as objects, from and to the bytes that `ihsm_abi.trace` declares."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

from ihsm.errors import TraceError
from ihsm_abi.entries import reader
from ihsm_abi.trace import (
    BODIES,
    MAX_RECORD_BYTES,
    NO_QUEUE,
    TRACE_HEADER,
    DmaProt,
    DoorbellKind,
    DoorbellOutcome,
    LostWhere,
    MessageFlags,
    TraceKind,
    TraceReset,
    padded,
)

HEADER: Final = reader(TRACE_HEADER, *(TRACE_HEADER.names or ()))
HEADER_BYTES: Final = HEADER.size
MAX_BODY_BYTES: Final = MAX_RECORD_BYTES - HEADER_BYTES
_WHOLE: Final = MessageFlags(0)
_BODIES: Final = {kind: reader(dtype, *(dtype.names or ())) for kind, dtype in BODIES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What every record has."""

    kind: ClassVar[TraceKind]
    time_ns: int = 0
    """Nanoseconds since 1970 (UTC); 0 where it is not known."""
    function: int = 0
    """Number of the function in its process."""

    payload_field: ClassVar[str | None] = None
    """The field that holds what is behind the body."""
    is_text: ClassVar[bool] = False
    """That field is text, UTF-8 on the wire; bytes that are none survive as surrogates."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Fields that are None where there is no queue or vector."""
    enums: ClassVar[Mapping[str, Callable[[int], int]]] = MappingProxyType({})
    """Types of fields that are no plain numbers."""

    def encode(self) -> bytes:
        """The record's bytes, without what aligns the next.

        Raises:
            TraceError: a field does not fit its place.
        """
        body, payload = self._body(), self._payload()
        length = len(body) + len(payload)
        if length > MAX_BODY_BYTES:
            raise TraceError(f"{self.kind.name}: {length} bytes, at most {MAX_BODY_BYTES} possible")
        try:
            header = HEADER.pack(self.time_ns, length, self.kind, self.function)
        except struct.error as error:
            raise TraceError(f"{self.kind.name}: {error}") from None
        return header + body + payload

    def _body(self) -> bytes:
        values = []
        for name in BODIES[self.kind].names or ():
            value = 0 if name not in self._fields() else getattr(self, name)
            values.append(NO_QUEUE if value is None else int(value))
        try:
            return _BODIES[self.kind].pack(*values)
        except struct.error as error:
            raise TraceError(f"{self.kind.name}: {error}") from None

    @classmethod
    def _fields(cls) -> Mapping[str, Any]:
        return cls.__dataclass_fields__

    def _payload(self) -> bytes:
        if self.payload_field is None:
            return b""
        value = getattr(self, self.payload_field)
        return value.encode("utf-8", "surrogateescape") if self.is_text else bytes(value)

    @classmethod
    def of_bytes(cls, time_ns: int, function: int, content: bytes) -> Self:
        """From body and payload.

        Raises:
            TraceError: too short, or a field has a value that there is not.
        """
        packing = _BODIES[cls.kind]
        if len(content) < packing.size:
            raise TraceError(f"{cls.kind.name}: {len(content)} bytes, at least {packing.size} expected")
        if cls.payload_field is None and len(content) > packing.size:
            raise TraceError(f"{cls.kind.name}: {len(content)} bytes, {packing.size} expected")
        values = dict(zip(BODIES[cls.kind].names or (), packing.unpack_from(content), strict=True))
        fields: dict[str, Any] = {
            name: cls._value(name, value) for name, value in values.items() if name in cls._fields()
        }
        if cls.payload_field is not None:
            payload = content[packing.size :]
            fields[cls.payload_field] = payload.decode("utf-8", "surrogateescape") if cls.is_text else payload
        return cls(time_ns=time_ns, function=function, **fields)

    @classmethod
    def _value(cls, name: str, value: int) -> int | None:
        if name in cls.optional and value == NO_QUEUE:
            return None
        try:
            return cls.enums[name](value) if name in cls.enums else value
        except ValueError as error:
            raise TraceError(f"{cls.kind.name}: {name}: {error}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterAccess(Record):
    """An access of the client to a region, without doorbells."""

    region: int
    """Index of the BAR, or `ihsm_abi.trace.CONFIG_REGION`."""
    offset: int
    width: int
    """Bytes."""
    value: int
    """Little-endian; of an access wider than 8 bytes its first 8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterRead(RegisterAccess):
    """The client has read this."""

    kind: ClassVar = TraceKind.REGISTER_READ


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterWrite(RegisterAccess):
    """The client writes this."""

    kind: ClassVar = TraceKind.REGISTER_WRITE


@dataclass(frozen=True, slots=True, kw_only=True)
class Doorbell(Record):
    """A doorbell's new value."""

    kind: ClassVar = TraceKind.DOORBELL
    optional: ClassVar = ("queue",)
    enums: ClassVar = MappingProxyType({"which": DoorbellKind, "outcome": DoorbellOutcome})
    offset: int
    """In the doorbells' BAR, bytes."""
    value: int
    queue: int | None
    """None at an offset that no queue has."""
    which: DoorbellKind
    outcome: DoorbellOutcome = DoorbellOutcome.TAKEN


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Record):
    """A submission entry that the device has fetched."""

    kind: ClassVar = TraceKind.ENTRY
    payload_field: ClassVar = "data"
    queue: int
    slot: int
    """Index in the submission ring."""
    data: bytes
    """64 bytes, or 128 of an AES queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion(Record):
    """A completion entry that the device writes."""

    kind: ClassVar = TraceKind.COMPLETION
    payload_field: ClassVar = "data"
    optional: ClassVar = ("vector",)
    queue: int
    slot: int
    """Index in the completion ring."""
    vector: int | None
    """That of the queue."""
    phase: int
    data: bytes
    """16 bytes, or 64 of an AES queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message(Record):
    """A message of the HSM queue."""

    payload_field: ClassVar = "message"
    enums: ClassVar = MappingProxyType({"flags": MessageFlags})
    queue: int
    cid: int
    length: int
    """Bytes of the whole message."""
    flags: MessageFlags = _WHOLE
    cut: int = 0
    """Bytes of it that are secret, and zeros in `message`."""
    message: bytes
    """Header and data map; empty if it is undecodable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
    """A request that the device has read."""

    kind: ClassVar = TraceKind.REQUEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Response(Message):
    """A response that the device is about to write."""

    kind: ClassVar = TraceKind.RESPONSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Interrupt(Record):
    """A vector that the device raises."""

    kind: ClassVar = TraceKind.INTERRUPT
    vector: int
    delivered: int = 1
    """0 if the client has no eventfd for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaMap(Record):
    """Memory that the device can use from now on."""

    kind: ClassVar = TraceKind.DMA_MAP
    enums: ClassVar = MappingProxyType({"prot": DmaProt})
    iova: int
    size: int
    prot: DmaProt


@dataclass(frozen=True, slots=True, kw_only=True)
class DmaUnmap(Record):
    """Memory that the device cannot use any more."""

    kind: ClassVar = TraceKind.DMA_UNMAP
    iova: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset(Record):
    """A reset that no register's write tells."""

    kind: ClassVar = TraceKind.RESET
    enums: ClassVar = MappingProxyType({"reset": TraceReset})
    reset: TraceReset


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultHit(Record):
    """A fault hits an event."""

    kind: ClassVar = TraceKind.FAULT_HIT
    optional: ClassVar = ("queue", "vector")
    fault: int
    """Its id; FaultAdded has its text."""
    queue: int | None
    vector: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultAdded(Record):
    """A fault that the device shows from now on."""

    kind: ClassVar = TraceKind.FAULT_ADDED
    payload_field: ClassVar = "text"
    is_text: ClassVar = True
    fault: int
    text: str
    """As `ihsm_abi.fault_words.to_text` writes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultCleared(Record):
    """A fault that the device shows no more."""

    kind: ClassVar = TraceKind.FAULT_CLEARED
    fault: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark(Record):
    """Somebody's word."""

    kind: ClassVar = TraceKind.MARK
    payload_field: ClassVar = "text"
    is_text: ClassVar = True
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost(Record):
    """Records that are missing before this one."""

    kind: ClassVar = TraceKind.LOST
    enums: ClassVar = MappingProxyType({"where": LostWhere})
    count: int
    where: LostWhere


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect(Record):
    """A client has come."""

    kind: ClassVar = TraceKind.CONNECT
    payload_field: ClassVar = "program"
    is_text: ClassVar = True
    pid: int
    """0 if it is not known."""
    program: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect(Record):
    """The client has gone."""

    kind: ClassVar = TraceKind.DISCONNECT
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Start(Record):
    """Recording begins; a Queue follows for each queue pair that there is, and a FaultAdded for each fault."""

    kind: ClassVar = TraceKind.START
    payload_field: ClassVar = "software"
    is_text: ClassVar = True
    version: int
    """Of the records (`ihsm_abi.trace.FORMAT_VERSION`)."""
    ready: int
    """CSTS.RDY."""
    software: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue(Record):
    """A queue pair as it is when recording begins."""

    kind: ClassVar = TraceKind.QUEUE
    optional: ClassVar = ("vector",)
    queue: int
    vector: int | None
    sq_live: int
    cq_live: int
    sq_entries: int
    sq_head: int
    sq_tail: int
    cq_entries: int
    cq_head: int
    cq_tail: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown(Record):
    """A record of a kind that this version does not know."""

    number: int
    """Its kind."""
    content: bytes

    def encode(self) -> bytes:
        """As it was."""
        return HEADER.pack(self.time_ns, len(self.content), self.number, self.function) + self.content


TYPES: Final[Mapping[int, type[Record]]] = MappingProxyType(
    {
        cls.kind: cls
        for cls in (
            RegisterRead, RegisterWrite, Doorbell, Entry, Completion, Request, Response, Interrupt, DmaMap, DmaUnmap,
            Reset, FaultHit, FaultAdded, FaultCleared, Mark, Lost, Connect, Disconnect, Start, Queue,
        )
    }
)  # fmt: skip
"""The class of each kind."""


def decode(data: bytes) -> Record:
    """The record of these bytes, all of them.

    Raises:
        TraceError: they are none, or more than one.
    """
    if len(data) < HEADER_BYTES:
        raise TraceError(f"a record of {len(data)} bytes, at least {HEADER_BYTES} expected")
    time_ns, length, kind, function = HEADER.unpack_from(data)
    content = data[HEADER_BYTES:]
    if length != len(content) or length > MAX_BODY_BYTES:
        raise TraceError(f"a record that says {length} bytes has {len(content)}")
    cls = TYPES.get(kind)
    if cls is None:
        return Unknown(time_ns=time_ns, function=function, number=kind, content=content)
    return cls.of_bytes(time_ns, function, content)


class RecordSplitter:
    """Cuts a stream of records into the records' bytes, however it is cut into pieces."""

    def __init__(self) -> None:
        """At the beginning of a stream."""
        self._rest = b""

    @property
    def is_between(self) -> bool:
        """Whether the stream is at the end of a record, as it is where nothing was cut off."""
        return not self._rest

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Each record that the next piece of the stream completes.

        Raises:
            TraceError: the stream cannot be one of records.
        """
        data = self._rest + piece if self._rest else piece
        at = 0
        while len(data) - at >= HEADER_BYTES:
            _, length, _, _ = HEADER.unpack_from(data, at)
            if length > MAX_BODY_BYTES:
                raise TraceError(f"a record of {length} bytes, at most {MAX_BODY_BYTES} possible")
            end = at + HEADER_BYTES + length
            after = at + padded(HEADER_BYTES + length)
            if after > len(data):
                break
            yield data[at:end]
            at = after
        self._rest = data[at:]


def kind_of(record: bytes) -> int:
    """Kind of a record's bytes."""
    return int(HEADER.unpack_from(record)[2])


def function_of(record: bytes) -> int:
    """Function of a record's bytes."""
    return int(HEADER.unpack_from(record)[3])


def time_of(record: bytes) -> int:
    """Time of a record's bytes, in nanoseconds since 1970."""
    return int(HEADER.unpack_from(record)[0])
