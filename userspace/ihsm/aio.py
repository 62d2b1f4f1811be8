# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Devices from asyncio: the event loop itself takes the completions, without a thread.

    partition = aio.AsyncPartition(Partition(controller))
    async with await partition.open_session(credential) as session:
        key = await session.generate_ecc_key(EccCurve.P256, KeyRequest(KeyUsage.SignVerify))
        await asyncio.gather(*(session.ecc_sign(key, each, HashAlgorithm.Sha256) for each in digests))

What stands for a partition or a session here is a view of it: both may be used with and without `await` in turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from ihsm.ddi.call import Call
from ihsm.ddi.credentials import Credential
from ihsm.ddi.partition import Partition
from ihsm.ddi.session import Session, SessionTicket
from ihsm.driver import Controller, HsmReply, Submission, Submitted, loop
from ihsm.driver.line_up import performed
from ihsm.errors import ArgumentTypeError, IhsmError
from ihsm.procedures import awaited
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.mbor import MborMap

R = TypeVar("R", bound=MborMap)
T = TypeVar("T")

__all__ = ["AsyncPartition", "AsyncSession", "completed", "exchange", "performed"]


async def completed(submitted: Submitted) -> Any:
    """The result of anything submitted, without keeping the event loop from anything else.

    Whoever is cancelled while awaiting it leaves the commands to complete by themselves. Errors as `Submission.result`.
    """
    if isinstance(submitted, Submission):
        return await loop.completed(submitted)
    return await submitted.awaited()


async def exchange(
    controller: Controller, message: bytes, kind: ControlKind, session_id: int | None, *, timeout_s: float | None = None
) -> HsmReply:
    """Like `Controller.exchange_async`: one HSM command, but its `sc` is not checked."""
    return await controller.submit_async(message, kind, session_id, timeout_s=timeout_s)


class AsyncSession:
    """An open session, awaited: the operations of `ihsm.ddi.Session` with the same arguments, results and errors.

    Any number may be awaited at the same time, in any event loop; others may use the session itself meanwhile. Whoever
    is cancelled leaves the command that is with the device to complete by itself, and what it makes is nobody's.

    Leaving its `async with` block closes the session.
    """

    def __init__(self, session: Session) -> None:
        """The operations of a session, whose partition's transport is an `ihsm.ddi.AsyncTransport`."""
        if not isinstance(session, Session):
            raise ArgumentTypeError("AsyncSession", "session", f"{type(session).__name__}, must be a Session")
        self.link = session
        """The session itself."""

    async def call(self, request: MborMap, response: type[R]) -> R:
        """Execute an in-session command; see `Session.call_async`."""
        return await self.link.call_async(request, response)

    async def perform(self, call: Call[T]) -> T:
        """Execute an operation given as a value, see `ihsm.ddi.calls`; errors as `call`."""
        return await self.link.perform_async(call)

    generate_ecc_key = awaited(Session.generate_ecc_key)
    generate_aes_key = awaited(Session.generate_aes_key)
    unwrapping_key = awaited(Session.unwrapping_key)
    rsa_unwrap = awaited(Session.rsa_unwrap)
    import_key = awaited(Session.import_key)
    unmask = awaited(Session.unmask)
    open_key = awaited(Session.open_key)
    attest = awaited(Session.attest)
    delete_key = awaited(Session.delete_key)
    ecc_sign = awaited(Session.ecc_sign)
    ecc_sign_number = awaited(Session.ecc_sign_number)
    rsa_mod_exp = awaited(Session.rsa_mod_exp)
    aes_cbc = awaited(Session.aes_cbc)
    hmac = awaited(Session.hmac)
    ecdh = awaited(Session.ecdh)
    hkdf = awaited(Session.hkdf)
    kbkdf = awaited(Session.kbkdf)
    ecc_sign_many = awaited(Session.ecc_sign_many)
    rsa_mod_exp_many = awaited(Session.rsa_mod_exp_many)
    hmac_many = awaited(Session.hmac_many)
    aes_cbc_many = awaited(Session.aes_cbc_many)
    change_pin = awaited(Session.change_pin)
    close = awaited(Session.close)

    async def __aenter__(self) -> Self:
        """The session."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session; a failure to do so does not hide the error that ended the block."""
        with contextlib.suppress(IhsmError) if value is not None else contextlib.nullcontext():
            await self.close()


class AsyncPartition:
    """A partition, awaited: the operations of `ihsm.ddi.Partition` with the same arguments, results and errors.

    The sessions that it opens are `AsyncSession`s. Whoever is cancelled leaves the command that is with the device to
    complete by itself; a session that it opens then is closed, as long as the event loop goes on.
    """

    def __init__(self, partition: Partition) -> None:
        """The operations of a partition whose transport is an `ihsm.ddi.AsyncTransport`."""
        if not isinstance(partition, Partition):
            raise ArgumentTypeError("AsyncPartition", "partition", f"{type(partition).__name__}, must be a Partition")
        self.link = partition
        """The partition itself."""
        self._closing: set[asyncio.Task[None]] = set()

    async def call(self, request: MborMap, response: type[R], session_id: int | None = None) -> R:
        """Execute a command given and answered in host form; see `Partition.call_async`."""
        return await self.link.call_async(request, response, session_id)

    api_revisions = awaited(Partition.api_revisions)
    info = awaited(Partition.info)
    certificate_chain = awaited(Partition.certificate_chain)
    identity_key = awaited(Partition.identity_key)
    init_bk3 = awaited(Partition.init_bk3)
    is_provisioned = awaited(Partition.is_provisioned)
    sealed_bk3 = awaited(Partition.sealed_bk3)
    set_sealed_bk3 = awaited(Partition.set_sealed_bk3)
    establish_credential = awaited(Partition.establish_credential)
    session_cipher = awaited(Partition.session_cipher)
    _open_session = awaited(Partition.open_session)
    _reopen_session = awaited(Partition.reopen_session)

    async def open_session(self, credential: Credential, *, seed: bytes | None = None) -> AsyncSession:
        """Open a session; see `Partition.open_session`."""
        return await self._session(self._open_session(credential, seed=seed))

    async def reopen_session(self, credential: Credential, ticket: SessionTicket) -> AsyncSession:
        """Revive a session after a reset and renewed provisioning, under its old id; see `Partition.reopen_session`."""
        return await self._session(self._reopen_session(credential, ticket))

    async def _session(self, opening: Coroutine[Any, Any, Session]) -> AsyncSession:
        task = asyncio.ensure_future(opening)
        try:
            return AsyncSession(await asyncio.shield(task))
        except asyncio.CancelledError:
            task.add_done_callback(self._close_late)
            raise

    def _close_late(self, opened: asyncio.Task[Session]) -> None:
        """Close a session that nobody gets, for a device has few."""
        if not opened.cancelled() and opened.exception() is None:
            closing = asyncio.ensure_future(_close(opened.result()))
            self._closing.add(closing)  # the event loop itself keeps no task alive
            closing.add_done_callback(self._closing.discard)


async def _close(session: Session) -> None:
    with contextlib.suppress(IhsmError):
        await AsyncSession(session).close()
