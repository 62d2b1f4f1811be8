# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""An open session: its life, and the operations of `key_operations`, `crypto_operations` and `array_operations`."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from ihsm.arguments import checked, checked_fields
from ihsm.ddi.array_operations import ArrayOperations
from ihsm.ddi.call import Caller, Procedure, command
from ihsm.ddi.channel import Channel
from ihsm.ddi.credentials import CredentialCipher
from ihsm.ddi.crypto_operations import CryptoOperations
from ihsm.ddi.key_operations import KeyOperations
from ihsm.errors import ForkedError, IhsmError, SessionClosedError
from ihsm.fast_path import FastPathSession
from ihsm.procedures import Through, operation
from ihsm_abi.ddi import ChangePinReq, ChangePinResp, CloseSessionReq, CloseSessionResp
from ihsm_abi.mbor import MborMap

if TYPE_CHECKING:
    from ihsm.ddi.call_arrays import Answers, CallMany

R = TypeVar("R", bound=MborMap)


@dataclass(frozen=True, slots=True)
class SessionTicket:
    """What reopens a session after its keys went with a reset: keep it secret, the seed unlocks the session's keys."""

    session_id: int
    seed: bytes = field(repr=False)
    bmk_session: bytes = field(repr=False)

    def __post_init__(self) -> None:
        """Check the types."""
        checked_fields(self)


class SessionHost(Caller, Protocol):
    """What a session needs of its partition, see `ihsm.ddi.Partition`."""

    @property
    def channel(self) -> Channel:
        """Typed messages in host form."""

    def agreement(self) -> Procedure[CredentialCipher]:
        """The same as `session_cipher` of a partition, as a procedure of steps that the partition takes."""


class Session(KeyOperations, CryptoOperations, ArrayOperations):
    """A session of a partition; a context manager that closes it."""

    def __init__(
        self, partition: SessionHost, session_id: int, short_app_id: int, seed: bytes, bmk_session: bytes
    ) -> None:
        """Made by `Partition.open_session` and `Partition.reopen_session`."""
        self.partition = partition
        self.session_id = session_id
        self.short_app_id = short_app_id
        self.closed = False
        self.fast_path = FastPathSession(session_id, short_app_id)
        """What AES commands of this session carry (`ihsm.driver.AesQueue`); it ends with the session."""
        self._seed = seed
        self._bmk_session = bmk_session

    @checked
    def call(self, request: MborMap, response: type[R]) -> R:
        """Execute an in-session command given and answered in host form; errors as `Channel.call`.

        Raises:
            SessionClosedError: the session was closed. Its id may be another session's by now.
        """
        self._check_open(type(request).__name__)
        return self.partition.channel.call(request, response, self.session_id)

    @checked
    async def call_async(self, request: MborMap, response: type[R]) -> R:
        """Like `call`, for coroutines; errors as `Channel.call_async`.

        Raises:
            SessionClosedError: as `call`.
        """
        self._check_open(type(request).__name__)
        return await self.partition.channel.call_async(request, response, self.session_id)

    def call_many(self, many: CallMany) -> Answers:
        """Execute an operation many times over; see `Channel.call_many`.

        Raises:
            SessionClosedError: as `call`; if it is closed meanwhile, those fail with it that have not been sent.
        """
        self._check_open("call_many")
        return self.partition.channel.call_many(many, self.session_id, functools.partial(self._check_open, "call_many"))

    async def call_many_async(self, many: CallMany) -> Answers:
        """The same for coroutines."""
        self._check_open("call_many_async")
        check = functools.partial(self._check_open, "call_many_async")
        return await self.partition.channel.call_many_async(many, self.session_id, check)

    def _check_open(self, what: str) -> None:
        if self.closed:
            raise SessionClosedError(f"{what}: session {self.session_id} is closed")

    @property
    def ticket(self) -> SessionTicket:
        """What `Partition.reopen_session` needs after a reset."""
        return SessionTicket(self.session_id, self._seed, self._bmk_session)

    @operation
    @checked
    def change_pin(self, pin: bytes) -> Procedure[None]:
        """Replace the PIN (16 bytes) of the partition's credential; sessions stay open."""
        cipher: CredentialCipher = yield Through(self.partition, self.partition.agreement())
        yield from command(ChangePinReq(new_pin=cipher.new_pin(pin), pub_key=cipher.public_key), ChangePinResp)

    @operation
    def close(self) -> Procedure[None]:
        """End the session: its session keys are gone, and so is `fast_path`; harmless the second time.

        In a child of fork() it ends for the child alone.
        """
        if not self.closed:
            with contextlib.suppress(ForkedError):
                yield from command(CloseSessionReq(), CloseSessionResp)
            self.abandon()

    def abandon(self) -> None:
        """Refuse further use without asking the device: it lost the session, and these ids may soon mean another one.

        A ticket taken before reopens it.
        """
        self.closed = True
        self.fast_path.end()

    def __enter__(self) -> Self:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session; a failure to do so does not hide the error that ended the block."""
        with contextlib.suppress(IhsmError) if value is not None else contextlib.nullcontext():
            self.close()
