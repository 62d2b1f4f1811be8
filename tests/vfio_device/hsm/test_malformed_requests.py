# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""300 crafted requests in five states, answered as `ddi-malformed.jsonl` says for the default profile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ihsm_abi.ddi import ReqHdr, decode_response_header, encode_error
from ihsm_abi.hsm_queue import ControlKind
from support.hsm import Scene, Stage

DATA = Path(__file__).parents[2] / "data" / "ddi-malformed.jsonl"
REQUESTS: list[dict[str, Any]] = [json.loads(line) for line in DATA.read_text().splitlines()]
STATES = ("fresh", "sealed", "session", "flagged", "flagged, provisioned")
SEALED_BK3 = bytes(range(20))


def queue_refuses(request: dict[str, Any]) -> bool:
    """Whether the queue answers before the module sees the request: lengths 0 and above 3584."""
    return "completion" in request.get("profile_status", "")


def expected_response(request: dict[str, Any]) -> bytes | None:
    """The bytes of an error response; None for success, and where the file gives the profile's status alone."""
    if "profile_response" in request:
        return bytes.fromhex(request["profile_response"])
    if "profile_status" in request or request["simulator_status"] == "Success":
        return None
    response = bytes.fromhex(request["simulator_response"])
    if request["simulator_status"] == "PartitionNotProvisioned":
        # The profile's admission answers it, without the session id that the simulator's operation echoes.
        header, _ = decode_response_header(response)
        return encode_error(header.status, ReqHdr(rev=header.rev, op=header.op))
    return response


@pytest.fixture(scope="module")
def states(stage: Stage) -> dict[str, Scene]:
    """One partition in each state; no request of the file changes it."""
    scenes = {state: stage.fresh() for state in STATES}
    scenes["sealed"].client.set_sealed_bk3(SEALED_BK3)
    for name in STATES[2:]:
        scenes[name].provision()
        scenes[name].open_session()
    for name in STATES[3:]:
        scenes[name].module.nssr()
    scenes["flagged, provisioned"].provision(bmk=scenes["flagged, provisioned"].bmk)
    return scenes


@pytest.mark.parametrize(
    "request_",
    [request for request in REQUESTS if not queue_refuses(request)],
    ids=lambda request: f"{request['area']}: {request['name']}",
)
def test_answer(states: dict[str, Scene], request_: dict[str, Any]) -> None:
    scene = states[request_["state"]]
    entry = request_["queue_entry"]
    before = scene.module.status()
    reply = scene.send(bytes.fromhex(request_["request"]), ControlKind(entry["control_kind"]), entry["session_id"])
    header, _ = decode_response_header(reply.message)
    assert header.status.name == request_.get("profile_status", request_["simulator_status"])
    expected = expected_response(request_)
    if expected is not None:
        assert reply.message == expected
    assert scene.module.status() == before
