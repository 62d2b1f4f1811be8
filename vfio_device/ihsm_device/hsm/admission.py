# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Admission: the checks before any operation, in the firmware's order (spec 04 §4, 03 §5 and §8, 02 B.7).

Undecodable headers and unknown operations are refused around this, in `dispatch`.
"""

from typing import Final

from ihsm_abi.ddi import API_REV, DdiOp, DdiStatus, ReqHdr
from ihsm_abi.ddi.limits import MAX_SESSIONS
from ihsm_abi.hsm_queue import ControlKind
from ihsm_device.hsm.command import HsmCommand
from ihsm_device.hsm.errors import RefusedError
from ihsm_device.hsm.partition import Session, SessionTable

_WITH_SESSION: Final = (ControlKind.CLOSE, ControlKind.IN_SESSION)
_FLAGGED_ADMITTED: Final = (DdiOp.ReopenSession, DdiOp.CloseSession)


class NotProvisionedError(RefusedError):
    """PartitionNotProvisioned at admission: the one error response that does not echo the session id."""

    def __init__(self) -> None:
        """The status is always the same."""
        super().__init__(DdiStatus.PartitionNotProvisioned)


def admit(
    command: HsmCommand, kind: ControlKind, header: ReqHdr, sessions: SessionTable, *, provisioned: bool
) -> Session | None:
    """Check a command against its queue entry and the partition; called with the partition's lock held.

    `kind` is that of the header's operation.

    Returns:
        The live session it names; None for operations without a session and for a flagged id that ReopenSession or
        CloseSession may use.

    Raises:
        RefusedError: with the status of the first check that fails.
    """
    _check_queue_entry(command, header, kind)
    session = None
    if kind in _WITH_SESSION and header.op != DdiOp.Invalid:
        session = _find_session(command.session_id, header, sessions)
    else:
        _check_supported_revision(header)
    if kind is ControlKind.IN_SESSION and not provisioned:
        raise NotProvisionedError
    return session


def _check_queue_entry(command: HsmCommand, header: ReqHdr, kind: ControlKind) -> None:
    if command.kind != kind:
        raise RefusedError(DdiStatus.InvalidArg)
    if kind is ControlKind.OPEN and command.id_valid:
        raise RefusedError(DdiStatus.SessionNotExpected)
    if command.id_valid != (kind in _WITH_SESSION):
        raise RefusedError(DdiStatus.InvalidArg)
    if header.sess_id != (command.session_id if command.id_valid else None):
        raise RefusedError(DdiStatus.InvalidArg)


def _find_session(session_id: int, header: ReqHdr, sessions: SessionTable) -> Session | None:
    session = sessions.live(session_id)
    if session is not None:
        if header.rev != session.rev:
            raise RefusedError(DdiStatus.UnsupportedRevision)
        return session
    if session_id >= MAX_SESSIONS:
        raise RefusedError(DdiStatus.VaultSessionLimitReached)
    if not sessions.is_flagged(session_id):
        raise RefusedError(DdiStatus.SessionNotFound)
    if header.op not in _FLAGGED_ADMITTED:
        raise RefusedError(DdiStatus.SessionNeedsRenegotiation)
    return None


def _check_supported_revision(header: ReqHdr) -> None:
    """GetApiRev must not carry a revision, every other operation the only one there is."""
    expected = None if header.op == DdiOp.GetApiRev else API_REV
    if header.rev != expected:
        raise RefusedError(DdiStatus.UnsupportedRevision)
