# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The FIPS state in responses (spec 03 §3.2, 06 §3.4), and the op code of AttestKey's response."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm.ddi.keys import KeyRequest
from ihsm_abi.ddi import (
    AttestKeyReq,
    DdiOp,
    DdiStatus,
    DeviceKind,
    EccCurve,
    GetApiRevReq,
    GetDeviceInfoReq,
    GetDeviceInfoResp,
    GetSealedBk3Req,
    GetUnwrappingKeyReq,
    KeyUsage,
    decode_response,
    encode_request,
)
from ihsm_abi.hsm_queue import ControlKind
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from support.hsm import Scene


@pytest.fixture(params=[False, True], ids=["off", "on"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with HsmDevice(DeviceOptions(kind=DeviceKind.Physical, fips_approved=request.param)) as device:
        yield Scene(device.function())


def test_fips_state(scene: Scene) -> None:
    fips = scene.module.fips_approved
    for message in (GetApiRevReq(), GetDeviceInfoReq()):
        reply = scene.send(encode_request(message), ControlKind.NONE)
        assert (reply.status, reply.header.fips_approved) == (DdiStatus.Success, False)
    _, info = decode_response(reply.message, GetDeviceInfoResp)
    assert info is not None
    assert info.fips_approved == fips
    refused = scene.send(encode_request(GetSealedBk3Req()), ControlKind.NONE)
    assert (refused.status, refused.header.fips_approved) == (DdiStatus.SealedBk3NotPresent, False)
    scene.provision()
    session = scene.open_session()
    reply = scene.send(encode_request(GetUnwrappingKeyReq(), session_id=0), ControlKind.IN_SESSION, 0)
    assert (reply.status, reply.header.fips_approved) == (DdiStatus.Success, fips)
    key = session.generate_ecc_key(EccCurve.P384, KeyRequest(KeyUsage.SignVerify))
    attest = AttestKeyReq(key_id=key.key_id, report_data=bytes(128))
    reply = scene.send(encode_request(attest, session_id=0), ControlKind.IN_SESSION, 0)
    assert (reply.header.op, reply.header.fips_approved) == (DdiOp.EccSign, fips)
    assert scene.module.status()["fips_approved"] == fips
