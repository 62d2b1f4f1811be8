# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever a client sends: an answer that decodes, never an internal error, and the next honest client is served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import (
    API_REV,
    OPERATIONS,
    AesKeySize,
    ApiRev,
    DdiOp,
    DdiStatus,
    DeviceKind,
    EccCurve,
    KeyUsage,
    ReqHdr,
    control_kind,
    decode_response,
    encode_message,
)
from ihsm_abi.hsm_queue import ControlKind, HsmStatus
from ihsm_abi.mbor import U8, U16, U32, U64, Bool, Enum32, FixedOctets, MborMap, Nested, Octets
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from support.hsm import Scene

WITH_SESSION = (ControlKind.CLOSE, ControlKind.IN_SESSION)
WIDTHS = {U8: 8, U16: 16, U32: 32, U64: 64}
KEY_FIELDS = ("key_id", "priv_key_id")


@pytest.fixture(scope="module", params=[DeviceKind.Virtual, DeviceKind.Physical], ids=lambda kind: kind.name.lower())
def target(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """A provisioned partition with keys of several kinds, and the validation operations switched on."""
    with HsmDevice(DeviceOptions(kind=request.param, validation_hooks=True)) as device:
        scene = Scene(device.function(0, 2))
        furnish(scene)
        yield scene


def furnish(scene: Scene) -> None:
    """Provision, open session 0 and make a key of each kind."""
    scene.clean()
    scene.provision()
    session = scene.open_session()
    for size in (AesKeySize.Aes128, AesKeySize.AesGcmBulk256):
        session.generate_aes_key(size, KeyRequest(KeyUsage.EncryptDecrypt))
    for usage in (KeyUsage.SignVerify, KeyUsage.Derive):
        session.generate_ecc_key(EccCurve.P384, KeyRequest(usage, tag=int(usage)))


def values(cls: type[MborMap]) -> st.SearchStrategy[Any]:
    """Any value of a map type, small lengths and existing key numbers preferred."""
    fields = {}
    for field in cls.mbor_fields:
        strategy = _field_values(field.name, field.spec, field.type)
        fields[field.name] = st.none() | strategy if field.optional else strategy
    return st.builds(cls, **fields)


def _field_values(name: str, spec: Any, kind: Any) -> st.SearchStrategy[Any]:
    match spec:
        case FixedOctets():
            return st.binary(min_size=spec.size, max_size=spec.size) | st.just(bytes(spec.size))
        case Octets():
            lengths = st.sampled_from([0, 1, 16, 48, 64, 68, 96, 97, 120, 256, 300, spec.max])
            return lengths.flatmap(lambda size: st.binary(min_size=min(size, spec.max), max_size=min(size, spec.max)))
        case Nested():
            return values(kind)
        case Bool():
            return st.booleans()
        case Enum32():
            return (st.integers(0, 33) | st.integers(0, 2**32 - 1)).map(kind)
    if name in KEY_FIELDS:
        return st.integers(0, 9) | st.integers(0, 0xFFFF)
    return st.integers(0, 2 ** WIDTHS[type(spec)] - 1)


REQUESTS = st.one_of(*(st.tuples(st.just(op), values(operation.request)) for op, operation in OPERATIONS.items()))
IDS = st.none() | st.integers(0, 9) | st.integers(0, 0xFFFF)
REVISIONS = st.just(API_REV) | st.none() | st.builds(ApiRev, major=st.integers(0, 2), minor=st.integers(0, 2))


def check(scene: Scene, message: bytes, kind: ControlKind, session_id: int | None) -> None:
    reply = scene.send(message, kind, session_id)
    assert reply.completion.sc == HsmStatus.SUCCESS
    header = reply.header
    assert header.status.known
    assert header.status != DdiStatus.InternalError
    if header.status == DdiStatus.Success and header.op in OPERATIONS and header.op != DdiOp.EccSign:
        decode_response(reply.message, OPERATIONS[header.op].response)
    if not scene.module.partition.sessions.snapshot() or scene.state.provisioned is None:
        furnish(scene)


@settings(max_examples=400)
@given(
    request=REQUESTS, honest=st.booleans(), kind=st.sampled_from(ControlKind), ids=st.tuples(IDS, IDS), rev=REVISIONS
)
def test_any_request(
    target: Scene,
    request: tuple[DdiOp, MborMap],
    honest: bool,
    kind: ControlKind,
    ids: tuple[int | None, int | None],
    rev: ApiRev | None,
) -> None:
    """Well-formed messages of every operation with any content; half of them with an honest envelope."""
    op, data = request
    header_id, queue_id = ids
    if honest:
        kind, rev = control_kind(op), None if op == DdiOp.GetApiRev else API_REV
        header_id = queue_id = 0 if kind in WITH_SESSION else None
    check(target, encode_message(ReqHdr(rev=rev, op=op, sess_id=header_id), data), kind, queue_id)


@settings(max_examples=400)
@given(request=REQUESTS, data=st.data())
def test_any_damage(target: Scene, request: tuple[DdiOp, MborMap], data: st.DataObject) -> None:
    """Messages cut, extended or changed anywhere."""
    op, fields = request
    kind = control_kind(op)
    session = 0 if kind in WITH_SESSION else None
    header = ReqHdr(rev=None if op == DdiOp.GetApiRev else API_REV, op=op, sess_id=session)
    message = bytearray(encode_message(header, fields))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert"])):
            case "flip":
                message[at] = data.draw(st.integers(0, 255))
            case "cut" if at:
                del message[at:]
            case "insert":
                message[at:at] = data.draw(st.binary(max_size=8))
    check(target, bytes(message), kind, session)


@given(message=st.binary(min_size=1, max_size=200), kind=st.sampled_from(ControlKind), session_id=IDS)
def test_any_bytes(target: Scene, message: bytes, kind: ControlKind, session_id: int | None) -> None:
    check(target, message, kind, session_id)
