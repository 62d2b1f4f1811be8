# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Admission, for every operation: each check alone, and with the next one failing too (rows 10 to 40 of the table)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from conformance.conditions import ANY, rows
from ihsm_abi.ddi import (
    API_REV,
    OPERATIONS,
    ApiRev,
    DdiOp,
    DdiStatus,
    GetApiRevReq,
    ReqHdr,
    control_kind,
    decode_response_header,
    encode_message,
    encode_request,
)
from ihsm_abi.ddi.types import ErrResp
from ihsm_abi.hsm_queue import ControlKind
from support.hsm import ModuleReply, Scene, Stage

LIVE = 0
NOT_ALLOCATED = 5
TOO_BIG = 8
OTHER_REV = ApiRev(major=1, minor=1)
WITH_SESSION = (ControlKind.CLOSE, ControlKind.IN_SESSION)
PRODUCTION = tuple(op for op in OPERATIONS if op < DdiOp.ResetFunction)
UNKNOWN = DdiOp(9999)


@dataclass
class Envelope:
    """Header and queue entry of a command whose data map is empty."""

    op: DdiOp
    kind: ControlKind
    queue_id: int | None
    header_id: int | None
    rev: ApiRev | None

    @classmethod
    def good(cls, op: DdiOp) -> Envelope:
        kind = control_kind(op)
        session = LIVE if kind in WITH_SESSION else None
        return cls(op, kind, session, session, None if op == DdiOp.GetApiRev else API_REV)

    def send(self, scene: Scene) -> ModuleReply:
        message = encode_message(ReqHdr(rev=self.rev, op=self.op, sess_id=self.header_id), ErrResp())
        return scene.send(message, self.kind, self.queue_id)


def _kind_mismatch(envelope: Envelope) -> None:
    envelope.kind = ControlKind((envelope.kind + 1) % 4)


def _queue_id(value: int | None) -> Callable[[Envelope], None]:
    def change(envelope: Envelope) -> None:
        envelope.queue_id = value

    return change


def _header_id(value: int | None) -> Callable[[Envelope], None]:
    def change(envelope: Envelope) -> None:
        envelope.header_id = value

    return change


def _both_ids(value: int | None) -> Callable[[Envelope], None]:
    def change(envelope: Envelope) -> None:
        envelope.queue_id = envelope.header_id = value

    return change


def _rev(value: ApiRev | None) -> Callable[[Envelope], None]:
    def change(envelope: Envelope) -> None:
        envelope.rev = value

    return change


CHANGES: dict[str, Callable[[Envelope], None]] = {
    "kind-mismatch": _kind_mismatch,
    "id-on-nosession": _queue_id(LIVE),
    "id-on-open": _both_ids(LIVE),
    "id-on-open-queue-only": _queue_id(LIVE),
    "no-id-at-all": _both_ids(None),
    "no-queue-id": _queue_id(None),
    "header-id-missing": _header_id(None),
    "header-id-differs": _header_id(1),
    "header-id-only": _header_id(LIVE),
    "session-id-too-big": _both_ids(TOO_BIG),
    "session-not-allocated": _both_ids(NOT_ALLOCATED),
    "session-flagged": lambda envelope: None,
    "rev-present": _rev(API_REV),
    "rev-missing": _rev(None),
    "rev-missing-live": _rev(None),
    "rev-out-of-range": _rev(OTHER_REV),
    "rev-not-the-sessions": _rev(OTHER_REV),
    "not-provisioned": lambda envelope: None,
}
FLAGGED = {"session-flagged", "not-provisioned"}
ROWS = {(row.operation, row.id): row for row in rows() if row.id in CHANGES and row.reachable and row.operation != ANY}
LATER = {
    "kind-mismatch": ("id-on-nosession", "id-on-open", "no-id-at-all"),
    "id-on-nosession": ("header-id-only",),
    "id-on-open-queue-only": ("header-id-only",),
    "no-queue-id": ("session-id-too-big",),
    "header-id-missing": ("session-not-allocated",),
    "header-id-differs": ("rev-not-the-sessions", "session-flagged"),
    "header-id-only": ("rev-out-of-range", "rev-present"),
    "session-id-too-big": ("rev-missing", "rev-not-the-sessions"),
    "session-not-allocated": ("rev-missing", "rev-not-the-sessions"),
    "session-flagged": ("rev-missing", "rev-not-the-sessions"),
}
"""Checks that come next and can be made to fail in the same command: the first one must give the status."""


def _prepare(scene: Scene, *rows_: str) -> None:
    scene.provision()
    scene.open_session()
    if FLAGGED & set(rows_):
        scene.module.nssr()


@pytest.mark.parametrize(("operation", "row"), ROWS, ids=lambda value: value)
def test_each_check(scene: Scene, covers: Callable[..., None], operation: str, row: str) -> None:
    _prepare(scene, row)
    envelope = Envelope.good(DdiOp[operation])
    CHANGES[row](envelope)
    _expect(envelope.send(scene), envelope, ROWS[operation, row].status)
    covers(f"{operation}/{row}")


@pytest.mark.parametrize(
    ("operation", "row", "later"),
    [(operation, row, later) for operation, row in ROWS for later in LATER.get(row, ()) if (operation, later) in ROWS],
    ids=lambda value: value,
)
def test_the_earlier_check_decides(scene: Scene, operation: str, row: str, later: str) -> None:
    _prepare(scene, row, later)
    envelope = Envelope.good(DdiOp[operation])
    CHANGES[later](envelope)
    CHANGES[row](envelope)
    _expect(envelope.send(scene), envelope, ROWS[operation, row].status)


def _expect(reply: ModuleReply, envelope: Envelope, status: str) -> None:
    """An error of admission: header echoed, completion of the operation's kind that names no session."""
    header = reply.header
    assert header.status.name == status
    assert (header.op, header.rev, header.fips_approved) == (envelope.op, envelope.rev, False)
    assert header.sess_id == (None if status == "PartitionNotProvisioned" else envelope.header_id)
    completion = reply.completion
    assert int(completion.flags) == control_kind(envelope.op)
    assert (completion.session_id, completion.short_app_id, completion.sc) == (0, 0, 0)


@pytest.mark.parametrize("op", PRODUCTION, ids=lambda op: op.name)
def test_the_good_envelope_is_admitted(scene: Scene, op: DdiOp) -> None:
    _prepare(scene)
    envelope = Envelope.good(op)
    reply = envelope.send(scene)
    assert reply.completion.flags.kind == envelope.kind
    if envelope.kind in WITH_SESSION:
        assert (reply.completion.flags.id_valid, reply.completion.session_id) == (1, LIVE)


@pytest.mark.parametrize("op", [DdiOp.Invalid, UNKNOWN], ids=["invalid", "unknown"])
@pytest.mark.parametrize("kind", [ControlKind.NONE, ControlKind.OPEN, ControlKind.CLOSE])
def test_unknown_codes_are_in_session(scene: Scene, covers: Callable[..., None], op: DdiOp, kind: ControlKind) -> None:
    _prepare(scene)
    envelope = Envelope(op, kind, None, None, API_REV)
    _expect(envelope.send(scene), envelope, "InvalidArg")
    covers("any/unknown-op-kind")


@pytest.mark.parametrize(
    "op", [UNKNOWN, *(op for op in OPERATIONS if op > DdiOp.ResetFunction)], ids=lambda op: str(+op)
)
def test_unknown_and_hook_operations_are_unsupported(scene: Scene, covers: Callable[..., None], op: DdiOp) -> None:
    _prepare(scene)
    assert Envelope.good(op).send(scene).status == DdiStatus.UnsupportedCmd
    for row, status in (
        ("session-id-too-big", DdiStatus.VaultSessionLimitReached),
        ("session-not-allocated", DdiStatus.SessionNotFound),
        ("rev-not-the-sessions", DdiStatus.UnsupportedRevision),
    ):
        envelope = Envelope.good(op)
        CHANGES[row](envelope)
        assert envelope.send(scene).status == status
    covers("any/unknown-op")


def test_reset_function_is_an_unsupported_close(scene: Scene, covers: Callable[..., None]) -> None:
    _prepare(scene)
    assert Envelope.good(DdiOp.ResetFunction).send(scene).status == DdiStatus.UnsupportedCmd
    covers("any/op-2001")
    for kind in (ControlKind.NONE, ControlKind.OPEN, ControlKind.IN_SESSION):
        envelope = Envelope.good(DdiOp.ResetFunction)
        envelope.kind = kind
        assert envelope.send(scene).status == DdiStatus.InvalidArg
    covers("any/op-2001-kind")


def test_operation_invalid_looks_no_session_up(scene: Scene, covers: Callable[..., None]) -> None:
    _prepare(scene)
    for session in (LIVE, NOT_ALLOCATED, TOO_BIG):
        envelope = Envelope.good(DdiOp.Invalid)
        envelope.queue_id = envelope.header_id = session
        assert envelope.send(scene).status == DdiStatus.UnsupportedCmd
    covers("any/op-1001", "any/op-1001-not-open")
    for rev in (None, OTHER_REV):
        envelope = Envelope.good(DdiOp.Invalid)
        envelope.rev = rev
        assert envelope.send(scene).status == DdiStatus.UnsupportedRevision
    covers("any/op-1001-rev")
    scene.module.nssr()
    for session in (LIVE, NOT_ALLOCATED):
        envelope = Envelope.good(DdiOp.Invalid)
        envelope.queue_id = envelope.header_id = session
        _expect(envelope.send(scene), envelope, "PartitionNotProvisioned")
    covers("any/op-1001-not-provisioned", "any/op-1001-not-provisioned-not-open")


GOOD = encode_request(GetApiRevReq())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("envelope-not-a-map", b"\x00" + GOOD[1:]),
        ("envelope-not-a-map", b"\x40\x18\x00"),
        ("envelope-count", b"\xa1" + GOOD[1:]),
        ("envelope-count", b"\xa3" + GOOD[1:] + b"\x18\x02\xa0"),
        ("envelope-first-id", b"\xa2"),
        ("envelope-first-id", b"\xa2\x18\x01" + GOOD[3:]),
        ("header-map", b"\xa2\x18\x00\x00" + GOOD[4:]),
        ("header-map", b"\xa2\x18\x00\xa0\x18\x01\xa0"),
        ("header-map", GOOD[:9]),
        ("header-map", b"\xa2\x18\x00\xa1\x18\x01\xa0\x18\x01\xa0"),
    ],
)
def test_undecodable_headers(scene: Scene, covers: Callable[..., None], row: str, message: bytes) -> None:
    reply = scene.send(message, ControlKind.NONE)
    header, offset = decode_response_header(reply.message)
    assert (header.status, header.op, header.rev, header.sess_id) == (
        DdiStatus.DdiDecodeFailed,
        DdiOp.Invalid,
        None,
        None,
    )
    assert reply.message[offset:] == b"\x18\x01\xa0"
    assert reply.completion.flags == 0
    covers(f"any/{row}")


def test_live_session_survives_refused_commands(stage: Stage) -> None:
    scene = stage.clean()
    _prepare(scene)
    for (operation, row), expected in ROWS.items():
        if row not in FLAGGED:
            envelope = Envelope.good(DdiOp[operation])
            CHANGES[row](envelope)
            assert envelope.send(scene).status.name == expected.status
    assert scene.module.status()["sessions"] == {"0": "live"}
