# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Carries typed messages over a transport: encoding, dialect, session control, statuses."""

from abc import ABC, abstractmethod
from typing import Any, TypeVar

from ihsm.arguments import checked, integer
from ihsm.ddi.call import Call
from ihsm.ddi.errors import NotAsynchronousError, RequestError, ResponseError, StatusError
from ihsm.ddi.transforms import Dialect
from ihsm.ddi.transport import AsyncTransport, Reply, Transport
from ihsm.errors import ArgumentError, ArgumentTypeError
from ihsm_abi.ddi import (
    API_REV,
    OPERATION_OF_REQUEST,
    ApiRev,
    DeviceKind,
    Operation,
    decode_response,
    encode_request,
)
from ihsm_abi.mbor import MborDecodeError, MborEncodeError, MborMap

R = TypeVar("R", bound=MborMap)
T = TypeVar("T")


class Channel:
    """Typed commands to one partition. Safe to use from several threads if its transport is."""

    def __init__(self, transport: Transport, *, rev: ApiRev = API_REV) -> None:
        """`rev` goes into every request header but GetApiRev's."""
        self._transport = transport
        self._async_transport = transport if isinstance(transport, AsyncTransport) else None
        self.rev = rev
        self.dialect = Dialect()

    def learn_kind(self, kind: DeviceKind) -> None:
        """From now on convert messages as a device of this kind needs it."""
        if not kind.known:
            raise ResponseError(f"GetDeviceInfo: kind {int(kind)} is neither Virtual nor Physical")
        self.dialect = Dialect(kind)

    @checked
    def call(self, request: MborMap, response: type[R], session_id: int | None = None) -> R:
        """Execute a command given and answered in host form.

        Args:
            request: Data map of the request; it says which operation this is.
            response: Class of the data map that the operation answers with.
            session_id: Session, for operations that need one.

        Raises:
            RequestError: a field does not fit its declaration or has no wire form.
            ArgumentError: `request` is the request of no operation, or `session_id` has more than 16 bits.
            StatusError: the device answered with an error status.
            ResponseError: the answer does not decode.
        """
        operation, message = self._encode(request, session_id)
        return self._decode(operation, self._transport.exchange(message, operation.kind, session_id), response)

    @checked
    async def call_async(self, request: MborMap, response: type[R], session_id: int | None = None) -> R:
        """Like `call`, for coroutines: while the device works, the event loop does other things.

        Raises:
            NotAsynchronousError: the transport is no `AsyncTransport`; nothing was sent.
        """
        transport = self._async_transport
        if transport is None:
            raise NotAsynchronousError(self._transport)
        operation, message = self._encode(request, session_id)
        return self._decode(operation, await transport.exchange_async(message, operation.kind, session_id), response)

    def _encode(self, request: MborMap, session_id: int | None) -> tuple[Operation, bytes]:
        operation = OPERATION_OF_REQUEST.get(type(request))
        if operation is None:
            raise ArgumentError("Channel.call", "request", f"{type(request).__name__} belongs to no operation")
        if session_id is not None:
            integer(operation.op.name, "session_id", session_id, 0, 0xFFFF)
        try:
            return operation, encode_request(self.dialect.to_wire(request), session_id=session_id, rev=self.rev)
        except MborEncodeError as error:
            raise RequestError(operation.op, request, error) from None

    def _decode(self, operation: Operation, reply: Reply, response: type[R]) -> R:
        try:
            header, data = decode_response(reply.message, response)
            if data is not None:
                data = self.dialect.to_host(data)
        except MborDecodeError as error:
            raise ResponseError(f"{operation.op.name}: response does not decode: {error}") from None
        if data is None:
            raise StatusError(operation.op, header.status)
        return data


class InSession(ABC):
    """What the families of in-session operations need of a session."""

    @abstractmethod
    def call(self, request: MborMap, response: type[R]) -> R:
        """Execute an in-session command given and answered in host form; errors as `Channel.call`."""

    def perform(self, call: Call[T]) -> T:
        """Execute an operation given as a value; errors as `Channel.call`."""
        _check_call("perform", call)
        return call.result(self.call(call.request, call.response))

    @abstractmethod
    async def call_async(self, request: MborMap, response: type[R]) -> R:
        """The same for coroutines; errors as `Channel.call_async`."""

    async def perform_async(self, call: Call[T]) -> T:
        """The same for coroutines; errors as `Channel.call_async`."""
        _check_call("perform_async", call)
        return call.result(await self.call_async(call.request, call.response))


def _check_call(operation: str, call: Call[Any]) -> None:
    if not isinstance(call, Call):
        raise ArgumentTypeError(operation, "call", f"{type(call).__name__}, must be a Call")
