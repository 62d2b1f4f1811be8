# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""One operation many times over, with arrays: requests from a template, responses by one (`ihsm.ddi.templates`).

A response that is not exactly the successful answer that the others are, an error above all, is decoded by itself.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ihsm.ddi.coding import decoded, encoded, operation_of
from ihsm.ddi.errors import BatchError, NotAsynchronousError, ResponseError
from ihsm.ddi.templates import NoTemplateError, RequestTemplate, ResponseTemplate
from ihsm.ddi.transforms import Dialect
from ihsm.ddi.transport import ArrayTransport, AsyncTransport, Transport
from ihsm.errors import ArgumentError, ArgumentTypeError, IhsmError
from ihsm.replies import Replies
from ihsm_abi.ddi import API_REV, ApiRev, DdiStatus, DeviceKind, Operation, RespHdr, decode_response, encode_message
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.mbor import MborMap, Octets

Columns = Mapping[str, NDArray[np.uint8]]
"""Byte arrays of many messages by the field's name, a row each."""
Sizes = tuple[tuple[str, int], ...]
AT_ONCE: Final = 256
"""Commands that are outstanding together over a transport that takes no arrays."""


def octet_matrix(operation: str, argument: str, values: ArrayLike, size: int | None = None) -> NDArray[np.uint8]:
    """An array of bytes with a row for each command; `size` bytes a row where that is not None.

    Raises:
        ArgumentTypeError: no array of bytes.
        ArgumentError: another shape.
    """
    if not isinstance(values, np.ndarray) or values.dtype != np.uint8:
        raise ArgumentTypeError(operation, argument, "an array of bytes (uint8) needed")
    if values.ndim != 2 or size not in (None, values.shape[1]):
        raise ArgumentError(
            operation, argument, f"shape {values.shape}, (n, {'size' if size is None else size}) needed"
        )
    return values


class ArrayCaller(Protocol):
    """What carries out an operation many times over: a session, or a partition's channel without one."""

    def call_many(self, many: CallMany, /) -> Answers:
        """Execute it; errors as `ihsm.ddi.Channel.call_many`."""

    async def call_many_async(self, many: CallMany, /) -> Answers:
        """The same for coroutines; errors as `ihsm.ddi.Channel.call_many_async`."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class CallMany:
    """One operation, again and again: a step of `ihsm.procedures`, whose answer is the arrays named."""

    request: MborMap
    """What the requests have in common: byte arrays that differ are as long here as in all of them, and zero."""
    columns: Columns
    """Those byte arrays, each of shape (n, size)."""
    response: type[MborMap]
    results: tuple[str, ...]
    """Byte arrays of the response."""

    def perform(self, link: ArrayCaller, /) -> tuple[NDArray[np.uint8], ...]:
        """Have all of them carried out.

        Returns:
            An array of shape (n, size) for each of `results`.

        Raises:
            BatchError: some have failed; it has the results of the others.
            RequestError: a byte array is longer than the field's limit; nothing was sent.
        """
        return self._finished(link.call_many(self))

    async def perform_async(self, link: ArrayCaller, /) -> tuple[NDArray[np.uint8], ...]:
        """The same, awaited."""
        return self._finished(await link.call_many_async(self))

    def _finished(self, answers: Answers) -> tuple[NDArray[np.uint8], ...]:
        results = tuple(answers.columns[name] for name in self.results)
        if answers.errors:
            raise BatchError(operation_of(self.request).op, len(results[0]), answers.errors, results)
        return results

    def messages(self, session_id: int | None, rev: ApiRev, dialect: Dialect) -> NDArray[np.uint8]:
        """The requests, shape (n, length); errors as `ihsm.ddi.coding.encoded`."""
        sizes = tuple((name, column.shape[1]) for name, column in self.columns.items())
        return _request_template(self.request, sizes, session_id, rev, dialect.kind).fill(self.columns)

    def answers(self, replies: Replies, dialect: Dialect) -> Answers:
        """What came back."""
        operation = operation_of(self.request)
        answers = Answers(self.results, len(replies.lengths))
        answers.errors.update(replies.errors)
        left = np.ones(len(replies.lengths), np.bool_)
        left[list(replies.errors)] = False
        tried = False
        while left.any():
            position = int(left.argmax())
            left[position] = False
            message = replies.message(position)
            try:
                answer = decoded(operation, message, self.response, dialect)
                answers.put(position, {name: getattr(answer, name) for name in self.results})
            except IhsmError as error:
                answers.errors[position] = error
                continue
            template = None if tried else _form_of(message, self.response, self.results, dialect)
            tried = True
            if template is not None:
                alike = np.flatnonzero(left & template.matching(replies.messages, replies.lengths))
                answers.put_many(alike, template.read(replies.messages[alike]))
                left[alike] = False
        return answers


def check_many(operation: str, many: CallMany) -> None:
    """See that it is one; ArgumentTypeError if not."""
    if not isinstance(many, CallMany):
        raise ArgumentTypeError(operation, "many", f"{type(many).__name__}, must be a CallMany")


class Answers:
    """Results of many commands, and the errors of those that have none."""

    def __init__(self, names: tuple[str, ...], count: int) -> None:
        """Nothing yet."""
        self._count = count
        self.columns: dict[str, NDArray[np.uint8]] = {name: np.zeros((count, 0), np.uint8) for name in names}
        """By name, shape (n, size); zeros in the rows of commands that failed, no columns while none has succeeded."""
        self.errors: dict[int, IhsmError] = {}
        """By position."""
        self._has_sizes = False

    def _fit(self, sizes: Mapping[str, int]) -> None:
        if not self._has_sizes:
            self._has_sizes = True
            self.columns = {name: np.zeros((self._count, sizes[name]), np.uint8) for name in self.columns}
        for name, column in self.columns.items():
            if column.shape[1] != sizes[name]:
                raise ResponseError(f"{name} of {sizes[name]} bytes, that of others has {column.shape[1]}")

    def put(self, position: int, result: Mapping[str, bytes]) -> None:
        """The result of one command; ResponseError if it has another size than those before."""
        self._fit({name: len(value) for name, value in result.items()})
        for name, value in result.items():
            self.columns[name][position] = np.frombuffer(value, np.uint8)

    def put_many(self, positions: NDArray[np.intp], results: Columns) -> None:
        """The results of several, which have the size of one before."""
        for name, rows in results.items():
            self.columns[name][positions] = rows


@functools.lru_cache(maxsize=256)
def _request_template(
    request: MborMap, sizes: Sizes, session_id: int | None, rev: ApiRev, kind: DeviceKind | None
) -> RequestTemplate:
    dialect = Dialect(kind)
    return RequestTemplate(
        lambda fields: encoded(dataclasses.replace(request, **fields), session_id, rev, dialect),  # type: ignore[type-var]
        dict(sizes),
    )


def _form_of(
    message: bytes, response: type[MborMap], names: tuple[str, ...], dialect: Dialect
) -> ResponseTemplate | None:
    """The form of a response that decodes, if it is the canonical encoding of what it says."""
    header, data = decode_response(message, response)
    assert data is not None
    if encode_message(header, data) != message:
        return None
    sizes = tuple((name, len(getattr(data, name))) for name in names)
    blank = dataclasses.replace(data, **{name: bytes(size) for name, size in sizes})  # type: ignore[type-var]
    return _response_template(header, blank, sizes, dialect.kind)


@functools.lru_cache(maxsize=256)
def _response_template(
    header: RespHdr, data: MborMap, sizes: Sizes, kind: DeviceKind | None
) -> ResponseTemplate | None:
    """With either state of FIPS approval; None if a field is not only moved."""
    dialect = Dialect(kind)

    def with_fields(fields: Mapping[str, bytes]) -> MborMap:
        return dataclasses.replace(data, **fields)  # type: ignore[type-var]

    def to_host(name: str, value: bytes) -> bytes:
        converted: bytes = getattr(dialect.to_host(with_fields({name: value})), name)
        return converted

    def encoding(approved: bool) -> Any:
        form = dataclasses.replace(header, fips_approved=approved)
        return lambda fields: encode_message(form, with_fields(fields))

    try:
        return ResponseTemplate((encoding(True), encoding(False)), dict(sizes), to_host)
    except NoTemplateError:
        return None


@functools.cache
def room_for(operation: Operation) -> int:
    """Bytes of the longest response whose data are byte arrays; any error response is shorter."""
    fields = operation.response.mbor_fields
    header = RespHdr(rev=API_REV, op=operation.op, sess_id=0, status=DdiStatus.Success, fips_approved=True)
    longest = {field.name: bytes(field.spec.max) for field in fields if isinstance(field.spec, Octets)}
    return len(encode_message(header, operation.response(**longest)))


def exchange_array(
    transport: Transport,
    messages: NDArray[np.uint8],
    kind: ControlKind,
    session_id: int | None,
    room: int,
    check: Callable[[], object],
) -> Replies:
    """Have all messages carried out: together where the transport can do that, else one after the other.

    `check` raises what those fail with that may not be sent any more.
    """
    if isinstance(transport, ArrayTransport):
        return transport.exchange_many(messages, kind, session_id, room, check=check)
    replies = Replies.none_yet(len(messages), room)
    for position, message in enumerate(messages):
        try:
            check()
            replies.put(position, transport.exchange(message.tobytes(), kind, session_id).message)
        except IhsmError as error:
            replies.errors[position] = error
    return replies


async def exchange_array_async(
    transport: Transport,
    messages: NDArray[np.uint8],
    kind: ControlKind,
    session_id: int | None,
    room: int,
    check: Callable[[], object],
) -> Replies:
    """The same for coroutines, several at a time.

    Raises:
        NotAsynchronousError: the transport is no `AsyncTransport`; nothing was sent.
    """
    if isinstance(transport, ArrayTransport):
        return await transport.exchange_many_async(messages, kind, session_id, room, check=check)
    if not isinstance(transport, AsyncTransport):
        raise NotAsynchronousError(transport)
    import asyncio  # takes longer to load than the rest

    asynchronous: AsyncTransport = transport
    replies = Replies.none_yet(len(messages), room)
    places = asyncio.Semaphore(AT_ONCE)

    async def carry_out(position: int, message: bytes) -> None:
        async with places:
            try:
                check()
                replies.put(position, (await asynchronous.exchange_async(message, kind, session_id)).message)
            except IhsmError as error:
                replies.errors[position] = error

    await asyncio.gather(*(carry_out(position, message.tobytes()) for position, message in enumerate(messages)))
    return replies
