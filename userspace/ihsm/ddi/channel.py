# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Carries typed messages over a transport: encoding, dialect, session control, statuses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeVar

from ihsm.arguments import checked
from ihsm.ddi.call import Call
from ihsm.ddi.coding import decoded, encoded, operation_of
from ihsm.ddi.errors import NotAsynchronousError, ResponseError
from ihsm.ddi.transforms import Dialect
from ihsm.ddi.transport import AsyncTransport, Transport
from ihsm.errors import ArgumentTypeError
from ihsm_abi.ddi import API_REV, ApiRev, DeviceKind
from ihsm_abi.mbor import MborMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from ihsm.ddi.call_arrays import Answers, CallMany

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
        operation, message = operation_of(request), encoded(request, session_id, self.rev, self.dialect)
        reply = self._transport.exchange(message, operation.kind, session_id)
        return decoded(operation, reply.message, response, self.dialect)

    @checked
    async def call_async(self, request: MborMap, response: type[R], session_id: int | None = None) -> R:
        """Like `call`, for coroutines: while the device works, the event loop does other things.

        Raises:
            NotAsynchronousError: the transport is no `AsyncTransport`; nothing was sent.
        """
        transport = self._async_transport
        if transport is None:
            raise NotAsynchronousError(self._transport)
        operation, message = operation_of(request), encoded(request, session_id, self.rev, self.dialect)
        reply = await transport.exchange_async(message, operation.kind, session_id)
        return decoded(operation, reply.message, response, self.dialect)

    def call_many(
        self, many: CallMany, session_id: int | None = None, check: Callable[[], object] = lambda: None
    ) -> Answers:
        """Execute one operation many times over, see `ihsm.ddi.call_arrays`.

        `check` raises what those fail with that may not be sent any more.

        Raises:
            RequestError, ArgumentError: as `call`; nothing was sent.
        """
        from ihsm.ddi.call_arrays import (  # numpy takes longer to load than the rest
            check_many,
            exchange_array,
            room_for,
        )

        check_many("call_many", many)
        operation, messages = operation_of(many.request), many.messages(session_id, self.rev, self.dialect)
        room = room_for(operation)
        replies = exchange_array(self._transport, messages, operation.kind, session_id, room, check)
        return many.answers(replies, self.dialect)

    async def call_many_async(
        self, many: CallMany, session_id: int | None = None, check: Callable[[], object] = lambda: None
    ) -> Answers:
        """Like `call_many`, for coroutines; NotAsynchronousError as `call_async`."""
        from ihsm.ddi.call_arrays import check_many, exchange_array_async, room_for

        check_many("call_many_async", many)
        operation, messages = operation_of(many.request), many.messages(session_id, self.rev, self.dialect)
        room = room_for(operation)
        replies = await exchange_array_async(self._transport, messages, operation.kind, session_id, room, check)
        return many.answers(replies, self.dialect)


class InSession(ABC):
    """What the families of in-session operations need of a session."""

    @abstractmethod
    def call(self, request: MborMap, response: type[R]) -> R:
        """Execute an in-session command given and answered in host form; errors as `Channel.call`."""

    def perform(self, call: Call[T]) -> T:
        """Execute an operation given as a value; errors as `Channel.call`."""
        _check_call("perform", call)
        return call.perform(self)

    @abstractmethod
    async def call_async(self, request: MborMap, response: type[R]) -> R:
        """The same for coroutines; errors as `Channel.call_async`."""

    @abstractmethod
    def call_many(self, many: CallMany) -> Answers:
        """Execute an operation many times over; see `Channel.call_many`."""

    @abstractmethod
    async def call_many_async(self, many: CallMany) -> Answers:
        """The same for coroutines."""

    async def perform_async(self, call: Call[T]) -> T:
        """The same for coroutines; errors as `Channel.call_async`."""
        _check_call("perform_async", call)
        return await call.perform_async(self)


def _check_call(operation: str, call: Call[Any]) -> None:
    if not isinstance(call, Call):
        raise ArgumentTypeError(operation, "call", f"{type(call).__name__}, must be a Call")
