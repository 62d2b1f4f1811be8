# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The security module under test, reached without queues."""

from __future__ import annotations

from dataclasses import dataclass

from ihsm_abi.ddi import RespHdr, decode_response_header
from ihsm_abi.hsm_queue import ControlKind
from ihsm_device.hsm.command import HsmCommand, HsmCompletion
from ihsm_device.hsm.module import SecurityModule


@dataclass(frozen=True)
class ModuleReply:
    """A completion as the typed client wants to see it."""

    completion: HsmCompletion

    @property
    def message(self) -> bytes:
        return self.completion.message

    @property
    def session_id(self) -> int | None:
        return self.completion.session_id if self.completion.flags.id_valid else None

    @property
    def short_app_id(self) -> int | None:
        return self.completion.short_app_id if self.completion.flags.short_app_id_valid else None

    @property
    def session_closed(self) -> bool:
        return bool(self.completion.flags.session_closed)

    @property
    def header(self) -> RespHdr:
        """The response's header."""
        return decode_response_header(self.message)[0]


@dataclass(frozen=True)
class ModuleTransport:
    """Hands commands straight to a security module."""

    module: SecurityModule

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> ModuleReply:
        command = HsmCommand(message, kind, session_id is not None, session_id or 0)
        return ModuleReply(self.module.execute(command))
