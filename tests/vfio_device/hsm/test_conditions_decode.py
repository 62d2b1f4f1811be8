# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Data maps that do not decode, for every operation (rows `decode-…` of the table)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from conformance.conditions import rows_of
from ihsm_abi import mbor
from ihsm_abi.ddi import API_REV, OPERATIONS, ApiRev, DdiOp, DdiStatus, ReqHdr
from ihsm_abi.hsm_queue import ControlKind
from support.hsm import ModuleReply, Scene
from support.messages import broken_limits, sample

PRODUCTION = tuple(op for op in OPERATIONS if op < DdiOp.ResetFunction)
WITH_SESSION = (ControlKind.CLOSE, ControlKind.IN_SESSION)
DATA_ENTRY = b"\x18\x01"


@pytest.fixture
def ready(scene: Scene) -> Scene:
    """Provisioned, with session 0 open."""
    scene.provision()
    scene.open_session()
    return scene


def head(op: DdiOp, rev: ApiRev | None = API_REV) -> bytes:
    """A request of session 0 up to where its data entry starts."""
    session = 0 if OPERATIONS[op].kind in WITH_SESSION else None
    header = ReqHdr(rev=None if op == DdiOp.GetApiRev else rev, op=op, sess_id=session)
    return b"\xa2\x18\x00" + mbor.encode(header, position=3)


def send(scene: Scene, op: DdiOp, message: bytes) -> ModuleReply:
    kind = OPERATIONS[op].kind
    return scene.send(message, kind, 0 if kind in WITH_SESSION else None)


def expect_decode_failure(reply: ModuleReply, op: DdiOp) -> None:
    kind = OPERATIONS[op].kind
    assert reply.status == DdiStatus.DdiDecodeFailed
    assert (reply.header.op, reply.header.sess_id) == (op, 0 if kind in WITH_SESSION else None)
    assert reply.completion.flags.kind == kind
    assert reply.completion.flags.id_valid == (kind in WITH_SESSION)


@pytest.mark.parametrize("op", PRODUCTION, ids=lambda op: op.name)
def test_malformed_data_maps(ready: Scene, covers: Callable[..., None], op: DdiOp) -> None:
    start = head(op)
    data = mbor.encode(sample(OPERATIONS[op].request), position=len(start) + len(DATA_ENTRY))
    count = data[0] & mbor.MAP_COUNT_MASK
    broken = {
        "missing": b"",
        "other id": b"\x18\x02" + data,
        "no map": DATA_ENTRY + b"\x00" + data[1:],
        "one entry too many": DATA_ENTRY + bytes([data[0] + 1]) + data[1:] + b"\x18\x1e\x18\x00",
    }
    if count:
        broken["one entry too few"] = DATA_ENTRY + bytes([data[0] - 1]) + data[1:]
        broken["empty map"] = DATA_ENTRY + b"\xa0"
        broken["cut short"] = DATA_ENTRY + data[:-1]
        broken["repeated id"] = DATA_ENTRY + bytes([data[0] + 1]) + data[1:3] + data[1:]
    for what, tail in broken.items():
        reply = send(ready, op, start + tail)
        assert reply.status == DdiStatus.DdiDecodeFailed, what
        expect_decode_failure(reply, op)
    covers(f"{op.name}/decode-data")


@pytest.mark.parametrize("op", PRODUCTION, ids=lambda op: op.name)
def test_byte_arrays_beyond_their_limits(ready: Scene, covers: Callable[..., None], op: DdiOp) -> None:
    start = head(op) + DATA_ENTRY
    tested = set()
    for broken in broken_limits(OPERATIONS[op].request, len(start)):
        expect_decode_failure(send(ready, op, start + broken.encoded), op)
        tested.add(broken.row)
    expected = {row.id for row in rows_of(op.name) if row.id.startswith("decode-") and row.id != "decode-data"}
    assert tested == expected
    covers(*(f"{op.name}/{row}" for row in tested))


@pytest.mark.parametrize("op", [op for op in PRODUCTION if op != DdiOp.GetApiRev], ids=lambda op: op.name)
def test_revision_is_checked_before_the_data(ready: Scene, op: DdiOp) -> None:
    reply = send(ready, op, head(op, ApiRev(major=1, minor=1)) + DATA_ENTRY)
    assert reply.status == DdiStatus.UnsupportedRevision


@pytest.mark.parametrize("op", [DdiOp.GetApiRev, DdiOp.GetDeviceInfo, DdiOp.GetSealedBk3], ids=lambda op: op.name)
def test_trailing_bytes_are_ignored(scene: Scene, op: DdiOp) -> None:
    start = head(op) + DATA_ENTRY
    plain = send(scene, op, start + b"\xa0")
    trailing = send(scene, op, start + b"\xa0" + bytes(range(7)))
    assert trailing.message == plain.message
