# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What comes out of the rings: commands that wait to be completed, and guest memory that they cannot reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from ihsm_abi.admin import AdminStatus
from ihsm_abi.hsm_queue import HsmStatus
from ihsm_device import _native
from ihsm_device._native import lib


class CommandSource(Protocol):
    """What a command needs of the engine that it came from."""

    handle: _native.Pointer[_native.ihsm_engine]
    """What C knows the engine by."""
    hold: Callable[[int, Command], None]
    """Takes a command that a fault holds, with the fault's id."""

    def put_slow(self, command: Command) -> bool:
        """Leave an HSM command to the threads that may take milliseconds; False: there is no room."""

    def complete_admin(self, command: Command, dw0: int = 0, status: int = 0, data: bytes | None = None) -> Outcome:
        """Complete an admin command."""

    def complete_hsm(self, command: Command, message: bytes, *, sc: int = 0) -> Outcome:
        """Complete an HSM command."""

    def refuse(self, taken: _native.Pointer[_native.ihsm_command]) -> None:
        """Answer, with status internal error, a command that was taken from a ring and got no further."""


class RingClass(IntEnum):
    """The three kinds of rings."""

    ADMIN = lib.IHSM_CLASS_ADMIN
    HSM = lib.IHSM_CLASS_HSM
    AES = lib.IHSM_CLASS_AES


class Outcome(IntEnum):
    """What became of a completion."""

    POSTED = lib.IHSM_POSTED
    """Data and CQE are in guest memory."""
    DROPPED = lib.IHSM_DROPPED
    """The queue is gone, was created anew, or has stopped: nothing was written."""
    DATA_FAILED = lib.IHSM_DATA_FAILED
    """The data could not be written and no CQE was: the command is still open, complete it again without data."""


_OUTCOMES: Final = {int(outcome): outcome for outcome in Outcome}


class UnreachableKind(IntEnum):
    """What a command could not reach in guest memory."""

    ENTRY = lib.IHSM_UNREACHABLE_ENTRY
    COMPLETION = lib.IHSM_UNREACHABLE_COMPLETION
    SOURCE = lib.IHSM_UNREACHABLE_SOURCE
    DESTINATION = lib.IHSM_UNREACHABLE_DESTINATION


class Refusal(IntEnum):
    """Why guest memory is out of reach."""

    NOT_MAPPED = lib.IHSM_NOT_MAPPED
    WITHOUT_POINTER = lib.IHSM_WITHOUT_POINTER
    NOT_ALLOWED = lib.IHSM_NOT_ALLOWED
    BEYOND_FILL = lib.IHSM_BEYOND_FILL


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Guest memory that a command needs and that is out of reach."""

    engine: CommandSource
    kind: UnreachableKind
    reason: Refusal
    queue_id: int
    cid: int
    """Command id; of an entry that could not be read, its index in the queue."""
    iova: int
    """The first byte out of reach."""
    count: int
    """Those of this engine and kind since the last `pull_unreachable` of one; the first of them is described."""


class Command:
    """A command that was read from an admin or HSM ring and waits to be completed, once."""

    __slots__ = ("_completed", "cid", "engine", "generation", "queue_id", "request", "ring", "sqe")

    def __init__(
        self,
        engine: CommandSource,
        ring: RingClass,
        queue_id: int,
        generation: int,
        cid: int,
        sqe: bytes,
        request: bytes,
    ) -> None:
        """`sqe`: the 64 bytes of the entry; `request`: what an HSM command's source held, empty for all others."""
        self.engine = engine
        self.ring = ring
        self.queue_id = queue_id
        self.generation = generation
        self.cid = cid
        self.sqe = sqe
        self.request = request
        self._completed = False

    @property
    def live(self) -> bool:
        """True as long as the queue it came from exists: a completion would be posted."""
        return bool(lib.ihsm_engine_generation_is_live(self.engine.handle, self.queue_id, self.generation))

    def settle(self, code: int) -> Outcome:
        """Note what C made of a completion."""
        outcome = _OUTCOMES[code]
        self._completed = outcome is not Outcome.DATA_FAILED
        return outcome

    def refuse(self) -> None:
        """Answer with status internal error, unless there is an answer."""
        if self._completed:
            return
        if self.ring is RingClass.ADMIN:
            self.engine.complete_admin(self, 0, AdminStatus.INTERNAL_ERROR)
        else:
            self.engine.complete_hsm(self, b"", sc=HsmStatus.INTERNAL_ERROR)

    def require_open(self) -> None:
        """Raise RuntimeError for a command that was completed."""
        if self._completed:
            raise RuntimeError(f"command {self.cid} of queue {self.queue_id} was completed twice")
