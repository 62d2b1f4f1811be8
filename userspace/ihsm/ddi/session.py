# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""An open session: its life, and the operations of `ihsm.ddi.key_operations` and `ihsm.ddi.crypto_operations`."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from ihsm.ddi.crypto_operations import CryptoOperations
from ihsm.ddi.key_operations import KeyOperations
from ihsm.errors import IhsmError
from ihsm_abi.ddi import ChangePinReq, ChangePinResp, CloseSessionReq, CloseSessionResp
from ihsm_abi.mbor import MborMap

if TYPE_CHECKING:
    from ihsm.ddi.partition import Partition, SessionTicket

R = TypeVar("R", bound=MborMap)


class Session(KeyOperations, CryptoOperations):
    """A session of a partition; a context manager that closes it."""

    def __init__(
        self, partition: Partition, session_id: int, short_app_id: int, seed: bytes, bmk_session: bytes
    ) -> None:
        """Made by `Partition.open_session` and `Partition.reopen_session`."""
        self.partition = partition
        self.session_id = session_id
        self.short_app_id = short_app_id
        self.closed = False
        self._seed = seed
        self._bmk_session = bmk_session

    def call(self, request: MborMap, response: type[R]) -> R:
        """Execute an in-session command given and answered in host form; errors as `Channel.call`."""
        return self.partition.channel.call(request, response, self.session_id)

    @property
    def ticket(self) -> SessionTicket:
        """What `Partition.reopen_session` needs after a reset."""
        from ihsm.ddi.partition import SessionTicket

        return SessionTicket(self.session_id, self._seed, self._bmk_session)

    def change_pin(self, pin: bytes) -> None:
        """Replace the PIN (16 bytes) of the partition's credential; sessions stay open."""
        cipher = self.partition.session_cipher()
        self.call(ChangePinReq(new_pin=cipher.new_pin(pin), pub_key=cipher.public_key), ChangePinResp)

    def close(self) -> None:
        """End the session; its session keys are gone."""
        if not self.closed:
            self.call(CloseSessionReq(), CloseSessionResp)
            self.closed = True

    def __enter__(self) -> Self:
        """The session itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the session; a failure to do so does not hide the error that ended the block."""
        with contextlib.suppress(IhsmError) if value is not None else contextlib.nullcontext():
            self.close()
