# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Messages without their secrets, for recordings: what a declaration marks `secret` becomes zeros of the same length.

Nothing is kept of a message that is none of the declared ones, for nobody knows what is in it; and of no message what
follows its data map, which receivers ignore.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ihsm_abi.ddi.envelope import decode_data, decode_request_header, decode_response_header
from ihsm_abi.ddi.ops import DdiOp
from ihsm_abi.ddi.registry import OPERATIONS
from ihsm_abi.ddi.status import DdiStatus
from ihsm_abi.ddi.types import ErrResp
from ihsm_abi.mbor import MAP_COUNT_MASK, Field, FixedOctets, MborDecodeError, MborMap, Nested, Octets
from ihsm_abi.mbor_schema import PAD_MASK, U8, U16, U32, U64, Bool, Enum32
from ihsm_abi.trace import MessageFlags

_ENTRY_ID_BYTES: Final = 2
_SIZES: Final = {U8: 2, U16: 3, U32: 5, U64: 9, Enum32: 5, Bool: 1}
"""Bytes of a value on the wire, with its marker."""
_LENGTH_BYTES: Final = 3
"""Marker and length in front of a byte array."""


@dataclass(frozen=True, slots=True)
class CutMessage:
    """What may be kept of a message."""

    message: bytes
    """As long as the message up to the end of its data map, secrets zeroed; empty if it could not be decoded."""
    cut: int
    """How many bytes of it are secrets."""
    flags: MessageFlags


def operation_of(request: bytes) -> int | None:
    """The operation that a request's header has, None if it cannot be decoded."""
    try:
        return int(decode_request_header(request)[0].op)
    except MborDecodeError:
        return None


def cut_request(message: bytes) -> CutMessage:
    """A request without its secrets."""
    try:
        header, offset = decode_request_header(message)
        operation = OPERATIONS.get(header.op)
        return _UNDECODABLE if operation is None else _cut(message, operation.request, offset)
    except MborDecodeError:
        return _UNDECODABLE


def cut_response(message: bytes, op: int | None) -> CutMessage:
    """A response without its secrets; `op` is the request's operation, which a response need not carry (spec 03 §7)."""
    try:
        header, offset = decode_response_header(message)
        if header.status != DdiStatus.Success:
            return _cut(message, ErrResp, offset)
        operation = None if op is None else OPERATIONS.get(DdiOp(op))
        return _UNDECODABLE if operation is None else _cut(message, operation.response, offset)
    except MborDecodeError:
        return _UNDECODABLE


_UNDECODABLE: Final = CutMessage(b"", 0, MessageFlags.UNDECODABLE)


def _cut(message: bytes, cls: type[MborMap], offset: int) -> CutMessage:
    data, end = decode_data(cls, message, offset)
    spans: list[tuple[int, int]] = []
    walked = _walk(cls, message, offset + _ENTRY_ID_BYTES, spans)
    # The decoder knows the secrets, the walk where they are: if the two did not agree, something could stay.
    if walked != end or [message[start:stop] for start, stop in spans] != list(_secrets(data)):
        return _UNDECODABLE
    kept = bytearray(message[:end])
    for start, stop in spans:
        kept[start:stop] = bytes(stop - start)
    cut = sum(stop - start for start, stop in spans)
    return CutMessage(bytes(kept), cut, MessageFlags.CUT if cut or end < len(message) else MessageFlags(0))


def is_secret(field: Field) -> bool:
    """Whether a field's declaration marks it so."""
    return isinstance(field.spec, Octets | FixedOctets) and field.spec.secret


def _secrets(data: MborMap) -> Iterator[bytes]:
    """Values of the secret fields that a map has, nested ones too, in their order."""
    for field in data.mbor_fields:
        value = getattr(data, field.name)
        if value is None:
            continue
        if isinstance(field.spec, Nested):
            yield from _secrets(value)
        elif is_secret(field):
            yield bytes(value)


def _walk(cls: type[MborMap], message: bytes, at: int, spans: list[tuple[int, int]]) -> int:
    """Find the secrets of a map at `at` that has been decoded, as pairs of offsets; the offset after it.

    It goes the decoder's way (`ihsm_abi.mbor_codegen`), without its checks.
    """
    left, required = message[at] & MAP_COUNT_MASK, 0
    at += 1
    for field in cls.mbor_fields:
        if not field.optional:
            required += 1
        elif left != required and at + _ENTRY_ID_BYTES <= len(message) and message[at + 1] == field.spec.id:
            left -= 1
        else:
            continue
        at = _walk_value(field, message, at + _ENTRY_ID_BYTES, spans)
    return at


def _walk_value(field: Field, message: bytes, at: int, spans: list[tuple[int, int]]) -> int:
    spec: Any = field.spec
    if isinstance(spec, Nested):
        return _walk(field.type, message, at, spans)
    if not isinstance(spec, Octets | FixedOctets):
        return at + _SIZES[type(spec)]
    start = at + _LENGTH_BYTES + (message[at] & PAD_MASK if isinstance(spec, Octets) else 0)
    end = start + int.from_bytes(message[at + 1 : at + _LENGTH_BYTES], "big")
    if spec.secret:
        spans.append((start, end))
    return end
