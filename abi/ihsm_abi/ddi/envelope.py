# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whole DDI messages: envelope, header map, data map (spec 03 §3).

Receivers decode in two steps, because the header's operation code says what the data map is. The device's rules and
the host's are the same functions: bytes after the data map are ignored, as the firmware and the host library do.
"""

import functools
from typing import Final, TypeVar

from ihsm_abi.ddi.device import GetApiRevReq
from ihsm_abi.ddi.headers import ReqHdr, RespHdr
from ihsm_abi.ddi.ops import DdiOp
from ihsm_abi.ddi.registry import OPERATION_OF_REQUEST, OPERATIONS
from ihsm_abi.ddi.status import DdiStatus
from ihsm_abi.ddi.types import ApiRev, ErrResp
from ihsm_abi.mbor import (
    MAP_COUNT_MASK,
    MAP_MARKER,
    UINT_MARKER,
    Buffer,
    DecodeErrorKind,
    EncodeErrorKind,
    MborDecodeError,
    MborEncodeError,
    MborMap,
    decode,
    encode,
)

API_REV: Final = ApiRev(major=1, minor=0)
"""The one revision that exists: minimum and maximum of what devices support (spec 03 §5)."""
HOST_BUFFER_BYTES: Final = 8192
"""Size of the request and the response buffer of a host."""

_HEADER_ID: Final = 0
_DATA_ID: Final = 1
_ENTRIES: Final = 2
_ENVELOPE: Final = bytes([MAP_MARKER | _ENTRIES, UINT_MARKER, _HEADER_ID])
_DATA_ENTRY: Final = bytes([UINT_MARKER, _DATA_ID])
_ENTRY_ID_BYTES: Final = len(_DATA_ENTRY)

H = TypeVar("H", ReqHdr, RespHdr)
M = TypeVar("M", bound=MborMap)


def _decode_header(buffer: Buffer, cls: type[H]) -> tuple[H, int]:
    if len(buffer) < 1:
        raise MborDecodeError(DecodeErrorKind.BufferUnderFlow, "envelope")
    if buffer[0] & MAP_MARKER != MAP_MARKER:
        raise MborDecodeError(DecodeErrorKind.ExpectedMap, "envelope")
    if buffer[0] & MAP_COUNT_MASK != _ENTRIES:
        raise MborDecodeError(DecodeErrorKind.InvalidLen, "envelope")
    _expect_id(buffer, 1, _HEADER_ID, "envelope header")
    return decode(cls, buffer, 1 + _ENTRY_ID_BYTES)


def _expect_id(buffer: Buffer, offset: int, entry_id: int, where: str) -> None:
    if len(buffer) < offset + _ENTRY_ID_BYTES:
        raise MborDecodeError(DecodeErrorKind.BufferUnderFlow, where)
    if buffer[offset + 1] != entry_id:
        raise MborDecodeError(DecodeErrorKind.InvalidId, where)


@functools.lru_cache(maxsize=512)
def _request_header(start: bytes) -> tuple[ReqHdr, int]:
    """Header of the request that starts like this; a session sends the same few over and over."""
    return _decode_header(start, ReqHdr)


def decode_request_header(buffer: Buffer) -> tuple[ReqHdr, int]:
    """Header of a request and the offset of the data entry; MborDecodeError stands for DdiDecodeFailed."""
    return _request_header(bytes(buffer[:_LONGEST_REQUEST_HEAD]))


def decode_response_header(buffer: Buffer) -> tuple[RespHdr, int]:
    """Header of a response and the offset of the data entry."""
    return _decode_header(buffer, RespHdr)


def decode_data(cls: type[M], buffer: Buffer, offset: int) -> tuple[M, int]:
    """Data map whose entry starts at `offset`, and the offset after it; what follows is the caller's to judge."""
    _expect_id(buffer, offset, _DATA_ID, "envelope data")
    return decode(cls, buffer, offset + _ENTRY_ID_BYTES)


def decode_request(buffer: Buffer) -> tuple[ReqHdr, MborMap]:
    """Header and data of a request whose operation is known; MborDecodeError also for an operation that is not."""
    header, offset = decode_request_header(buffer)
    operation = OPERATIONS.get(header.op)
    if operation is None:
        raise MborDecodeError(DecodeErrorKind.InvalidParameter, f"operation {int(header.op)}")
    data, _ = decode_data(operation.request, buffer, offset)
    return header, data


def decode_response(buffer: Buffer, cls: type[M]) -> tuple[RespHdr, M | None]:
    """Header of a response and, if its status is Success, its data map (spec 03 §3.3, host side)."""
    header, offset = decode_response_header(buffer)
    if header.status != DdiStatus.Success:
        return header, None
    data, _ = decode_data(cls, buffer, offset)
    return header, data


def encode_message(header: ReqHdr | RespHdr, data: MborMap, *, limit: int = HOST_BUFFER_BYTES) -> bytes:
    """Envelope around a header and a data map; `limit` is the room in bytes. Raises MborEncodeError."""
    return append_data(encode_head(header), data, limit=limit)


@functools.lru_cache(maxsize=512)
def encode_head(header: ReqHdr | RespHdr) -> bytes:
    """Everything of a message before its data map; the same few come over and over."""
    return _ENVELOPE + encode(header, position=len(_ENVELOPE)) + _DATA_ENTRY


def append_data(head: bytes, data: MborMap, *, limit: int = HOST_BUFFER_BYTES) -> bytes:
    """The message that starts with what `encode_head` gave. Raises MborEncodeError."""
    message = head + encode(data, position=len(head))
    if len(message) > limit:
        raise MborEncodeError(EncodeErrorKind.BufferOverflow, type(data).__name__)
    return message


_LONGEST_REQUEST_HEAD: Final = len(encode_head(ReqHdr(rev=API_REV, op=DdiOp.Invalid, sess_id=0)))
"""Bytes of a request before its data map if every part of the header is there; their number depends on that alone."""


def encode_request(data: MborMap, *, session_id: int | None = None, rev: ApiRev | None = API_REV) -> bytes:
    """Request of the operation that `data` belongs to; `rev` is left out of GetApiRev, which must not carry it."""
    operation = OPERATION_OF_REQUEST[type(data)]
    header = ReqHdr(rev=None if isinstance(data, GetApiRevReq) else rev, op=operation.op, sess_id=session_id)
    return encode_message(header, data)


def encode_error(status: DdiStatus, request: ReqHdr | None, *, session_id: int | None = None) -> bytes:
    """Error response: the request's header echoed, the status, an empty data map (spec 03 §3.4).

    `request` is None for a header that could not be decoded. `session_id` is what the response shall carry.
    """
    header = RespHdr(
        rev=None if request is None else request.rev,
        op=DdiOp.Invalid if request is None else request.op,
        sess_id=session_id,
        status=status,
        fips_approved=False,
    )
    return encode_message(header, ErrResp())
