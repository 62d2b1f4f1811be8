# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What an open file keeps: its owner, and the session that was opened through it (spec 02 A.3, B.6)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ihsm_abi.admin import Psf
from ihsm_abi.hsm_queue import ControlKind, SessionControl
from ihsm_abi.uapi import MAX_SESSIONS_PER_FD, NO_SESSION_ID, NO_SHORT_APP_ID
from ihsm_kmod.hsm.logs import Log
from ihsm_kmod.kernel.mutex import Mutex


@dataclass
class SessionSlot:
    """Room for one session."""

    id: int = NO_SESSION_ID
    valid: bool = False
    short_app_id: int = NO_SHORT_APP_ID
    short_app_id_is_valid: bool = False

    def clear(self) -> None:
        """Free it."""
        self.id, self.valid = NO_SESSION_ID, False
        self.short_app_id, self.short_app_id_is_valid = NO_SHORT_APP_ID, False


@dataclass(eq=False)
class OpenFile:
    """Context of one open(). A reset of the controller changes nothing here (A.10)."""

    owning_task: int
    """Process (TGID) that opened the file; its threads may use it, its children may not."""
    sessions: list[SessionSlot] = field(default_factory=lambda: [SessionSlot() for _ in range(MAX_SESSIONS_PER_FD)])
    lock: Mutex = field(default_factory=lambda: Mutex("azihsm_file"))
    """Made to guard `sessions`; see the quirk `slot_check_unlocked`."""

    @property
    def session(self) -> SessionSlot | None:
        """The session opened through this file, if there is one."""
        return next((slot for slot in self.sessions if slot.valid), None)

    @property
    def free_slot(self) -> SessionSlot | None:
        """Where a new session goes, if there is room."""
        return next((slot for slot in self.sessions if not slot.valid), None)

    def forget_sessions(self) -> None:
        """There are none any more."""
        for slot in self.sessions:
            slot.clear()

    def slot_of(self, session_id: int) -> SessionSlot | None:
        """Where this session is."""
        return next((slot for slot in self.sessions if slot.valid and slot.id == session_id), None)


def track_session(file: OpenFile, sqe: Any, cqe: Any, log: Log) -> None:
    """What a completed command means for the sessions of its file (B.6); entries as `RecordCodec` gives them."""
    asked, answer = SessionControl(sqe.control), SessionControl(cqe.control)
    closing = asked.kind == ControlKind.CLOSE
    if Psf(cqe.psf).sc != 0:
        # An error closes a session only if the device says so; the kind of its answer does not matter then.
        if closing and answer.id_valid and answer.session_closed:
            _close(file, sqe.session_id)
        return
    if answer.kind != asked.kind:
        log.warn(f"session: command of kind {asked.kind} answered as {answer.kind}, nothing noted")
        return
    if not answer.id_valid:
        return
    if asked.kind == ControlKind.OPEN:
        _open(file, cqe, log, short_app_id_is_valid=bool(answer.short_app_id_valid))
    elif closing and answer.session_closed:
        _close(file, sqe.session_id)
    elif closing:
        log.warn(f"session {sqe.session_id}: the device has not closed it yet, kept")


def _open(file: OpenFile, cqe: Any, log: Log, *, short_app_id_is_valid: bool) -> None:
    slot = file.free_slot
    if slot is None:
        log.warn(f"session {cqe.session_id}: no slot left in its file; it stays open in the device")
        return
    slot.id, slot.valid = cqe.session_id, True
    if short_app_id_is_valid:
        slot.short_app_id, slot.short_app_id_is_valid = cqe.short_app_id, True


def _close(file: OpenFile, session_id: int) -> None:
    slot = file.slot_of(session_id)
    if slot is not None:
        slot.clear()
