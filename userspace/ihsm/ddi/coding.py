# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Typed messages in host form to bytes and back: dialect, encoding, statuses."""

from __future__ import annotations

from typing import TypeVar

from ihsm.arguments import integer
from ihsm.ddi.errors import RequestError, ResponseError, StatusError
from ihsm.ddi.transforms import Dialect
from ihsm.errors import ArgumentError
from ihsm_abi.ddi import OPERATION_OF_REQUEST, ApiRev, Operation, decode_response, encode_request
from ihsm_abi.mbor import MborDecodeError, MborEncodeError, MborMap

R = TypeVar("R", bound=MborMap)


def operation_of(request: MborMap) -> Operation:
    """What a request asks for; ArgumentError if it is the request of no operation."""
    operation: Operation | None = OPERATION_OF_REQUEST.get(type(request))
    if operation is None:
        raise ArgumentError("Channel.call", "request", f"{type(request).__name__} belongs to no operation")
    return operation


def encoded(request: MborMap, session_id: int | None, rev: ApiRev, dialect: Dialect) -> bytes:
    """The message of a request.

    Raises:
        RequestError: a field does not fit its declaration or has no wire form.
        ArgumentError: it is the request of no operation, or `session_id` has more than 16 bits.
    """
    operation = operation_of(request)
    if session_id is not None:
        integer(operation.op.name, "session_id", session_id, 0, 0xFFFF)
    try:
        return encode_request(dialect.to_wire(request), session_id=session_id, rev=rev)
    except MborEncodeError as error:
        raise RequestError(operation.op, request, error) from None


def decoded(operation: Operation, message: bytes, response: type[R], dialect: Dialect) -> R:
    """The answer in a message.

    Raises:
        StatusError: the device answered with an error status.
        ResponseError: the answer does not decode.
    """
    try:
        header, data = decode_response(message, response)
        if data is not None:
            data = dialect.to_host(data)
    except MborDecodeError as error:
        raise ResponseError(f"{operation.op.name}: response does not decode: {error}") from None
    if data is None:
        raise StatusError(operation.op, header.status)
    return data
