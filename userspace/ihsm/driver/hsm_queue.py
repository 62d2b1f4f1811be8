# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""HSM (CP) queue: DDI messages in and out (spec 02 part B). Nothing here knows what the messages mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from ihsm.arguments import integer, octets
from ihsm.bus import DmaArena
from ihsm.driver.completion import CompletionLine
from ihsm.driver.doorbells import Doorbells
from ihsm.driver.queue_pair import QueuePair
from ihsm.driver.rings import HSM_RING
from ihsm.driver.submission import Submission
from ihsm.errors import ArgumentError, HsmCommandError
from ihsm_abi.admin import Psf
from ihsm_abi.entries import RecordCodec
from ihsm_abi.hsm_queue import (
    HSM_CQE,
    HSM_SQE,
    MAX_DST_BYTES,
    ControlKind,
    HsmCommandWord,
    HsmOpcode,
    HsmStatus,
    SessionControl,
)
from ihsm_abi.pci import PAGE_BYTES

MAX_MESSAGE_BYTES: Final = 2 * PAGE_BYTES
"""What two PRPs reach; the device refuses requests above 3584 bytes (spec 02 B.7)."""

_OPERATION: Final = "HSM command"
_SLOT_BYTES: Final = MAX_MESSAGE_BYTES + MAX_DST_BYTES
_SQE: Final = RecordCodec(HSM_SQE)
_CQE: Final = RecordCodec(HSM_CQE)
_FLAGS: Final = {kind: SessionControl.of(kind=kind) for kind in ControlKind}
_FLAGS_WITH_ID: Final = {kind: SessionControl.of(kind=kind, id_valid=1) for kind in ControlKind}


class HsmReply(NamedTuple):
    """Response of one command and what its completion says besides (spec 02 B.3)."""

    message: bytes
    sc: int
    byte_count: int
    """Length of the whole response, even where the room for it was shorter."""
    control: SessionControl
    session_id: int | None
    """None unless the completion marks it valid; the same for the next one."""
    short_app_id: int | None

    @property
    def session_closed(self) -> bool:
        """Whether the session may be dropped."""
        return bool(self.control.session_closed)


def message_arguments(
    message: bytes, kind: ControlKind, session_id: int | None
) -> tuple[bytes, int | None, SessionControl]:
    """Message, session id and session control flags as a command takes them.

    Raises:
        ArgumentError, ArgumentTypeError: no message, kind or id, or a message longer than the buffers.
    """
    message = octets(_OPERATION, "message", message)
    if len(message) > MAX_MESSAGE_BYTES:
        raise ArgumentError(_OPERATION, "message", f"{len(message)} bytes, at most {MAX_MESSAGE_BYTES} possible")
    return message, *session_arguments(kind, session_id)


def session_arguments(kind: ControlKind, session_id: int | None) -> tuple[int | None, SessionControl]:
    """Session id and session control flags as a command takes them; errors as `message_arguments`."""
    if not isinstance(kind, int) or kind not in _FLAGS:
        raise ArgumentError(_OPERATION, "kind", f"{kind!r} is no ControlKind")
    if session_id is None:
        return None, _FLAGS[kind]
    return integer(_OPERATION, "session_id", session_id, 0, 0xFFFF), _FLAGS_WITH_ID[kind]


class HsmQueue(QueuePair):
    """An HSM queue pair with message buffers for each of its command ids."""

    def __init__(self, queue_id: int, entries: int, arena: DmaArena, bells: Doorbells, line: CompletionLine) -> None:
        """Allocate rings and buffers: two pages for the request and two for the response per command."""
        super().__init__(HSM_RING, queue_id, entries, arena, bells, line)
        self._slots = arena.allocate_pages((entries - 1) * _SLOT_BYTES)
        self._slot_bytes = self._slots.view.data
        self._collect_whole = partial(self._collect, MAX_DST_BYTES)

    @classmethod
    def memory_bytes(cls, entries: int) -> int:
        """DMA memory that a queue takes."""
        return HSM_RING.ring_bytes(entries) + (entries - 1) * _SLOT_BYTES

    def submit_message(
        self,
        message: bytes,
        kind: ControlKind,
        session_id: int | None,
        *,
        timeout_s: float,
        response_bytes: int = MAX_DST_BYTES,
    ) -> Submission:
        """Submit a request; its result is an `HsmReply`.

        Args:
            message: request, 1 to 8192 bytes.
            kind: session control kind of the operation.
            session_id: sets the "id valid" flag; None: not valid, id 0.
            timeout_s: seconds until the submission fails.
            response_bytes: room for the response, up to 8192 bytes.

        Raises:
            ArgumentError, ArgumentTypeError: no message, kind or id, or message or room longer than the buffers.
            CommandTimeoutError: the ring stayed full.
        """
        build = self._builder(message, kind, session_id, response_bytes)
        integer(_OPERATION, "response_bytes", response_bytes, 0, MAX_DST_BYTES)
        return self.submit_one(build, partial(self._collect, response_bytes), timeout_s)

    def exchange_message(
        self, message: bytes, kind: ControlKind, session_id: int | None, *, timeout_s: float
    ) -> HsmReply:
        """Submit a request as `submit_message`, and wait for its reply; errors as `submit_message` and `reply_of`."""
        build = self._builder(message, kind, session_id, MAX_DST_BYTES)
        return successful(self.carry_out(build, self._collect_whole, timeout_s))

    def _builder(
        self, message: bytes, kind: ControlKind, session_id: int | None, response_bytes: int
    ) -> Callable[[int], bytes]:
        """What copies a request to where it is sent from, and makes its entry."""
        message, session_id, flags = message_arguments(message, kind, session_id)

        def build(cid: int) -> bytes:
            start, length = cid * _SLOT_BYTES, len(message)
            self._slot_bytes[start : start + length] = message
            source = self._slots.iova + start
            target = source + MAX_MESSAGE_BYTES
            return _SQE.pack(
                0,
                cid,
                length,
                source,
                source + PAGE_BYTES if length > PAGE_BYTES else 0,
                response_bytes,
                target,
                target + PAGE_BYTES if response_bytes > PAGE_BYTES else 0,
                flags,
                session_id or 0,
            )

        return build

    def _collect(self, response_bytes: int, cid: int, cqe: Any) -> HsmReply:
        start = cid * _SLOT_BYTES + MAX_MESSAGE_BYTES
        return _reply(cqe, bytes(self._slot_bytes[start : start + min(cqe.byte_count, response_bytes)]))

    def submit_flush(self, session_id: int, *, timeout_s: float) -> Submission:
        """Submit the flush of a session (spec 02 B.5), as a driver does when its client goes away."""
        session_id = integer("flush", "session_id", session_id, 0, 0xFFFF)
        command = HsmCommandWord.of(opc=HsmOpcode.FLUSH_SESSION)
        flags = _FLAGS_WITH_ID[ControlKind.CLOSE]

        def build(cid: int) -> bytes:
            return _SQE.pack(command, cid, 0, 0, 0, 0, 0, 0, flags, session_id)

        return self.submit_one(build, partial(self._collect, 0), timeout_s)

    def release(self) -> None:
        """Give rings and buffers back."""
        super().release()
        self._slot_bytes = memoryview(b"")
        self._slots.release()


def _reply(cqe: Any, message: bytes) -> HsmReply:
    """What a completion and the response's bytes say, as far as there was room for those."""
    control = SessionControl(cqe.control)
    return HsmReply(
        message,
        Psf(cqe.psf).sc,
        cqe.byte_count,
        control,
        cqe.session_id if control.id_valid else None,
        cqe.short_app_id if control.short_app_id_valid else None,
    )


def reply_from(row: np.void, message: bytes) -> HsmReply:
    """The same of a completion in an array."""
    return _reply(_CQE.unpack(row.tobytes()), message)


def reply_of(submission: Submission, timeout_s: float | None = None) -> HsmReply:
    """Wait for a submitted message.

    Raises:
        HsmCommandError: `sc` is not 0, so there is no response.
        CommandTimeoutError, QueueClosedError: see `Submission.result`.
    """
    return successful(submission.result(timeout_s))


def successful(reply: HsmReply) -> HsmReply:
    """The reply, if there is a response in it.

    Raises:
        HsmCommandError: `sc` is not 0.
    """
    if reply.sc:
        raise HsmCommandError(reply.sc, _name(reply.sc), reply)
    return reply


def _name(sc: int) -> str:
    try:
        return HsmStatus(sc).name
    except ValueError:
        return "unknown"
