# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Transports for tests of the client: one plays a recorded run, the other asks functions of the test."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.ddi.credentials import Entropy
from ihsm_abi.ddi import DdiStatus, RespHdr, decode_request, encode_error, encode_message
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.mbor import MborMap

DATA = Path(__file__).parents[1] / "data"
VECTORS = json.loads((DATA / "ddi-vectors.json").read_text())
INPUTS: dict[str, Any] = {
    name: bytes.fromhex(value) if all(c in "0123456789abcdef" for c in value) else value
    for name, value in VECTORS["inputs"].items()
    if isinstance(value, str)
}


def lines(name: str) -> list[dict[str, Any]]:
    """Entries of a JSONL file of tests/data."""
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def private_key(scalar: str | bytes) -> ec.EllipticCurvePrivateKey:
    """P-384 key of a big-endian scalar."""
    raw = bytes.fromhex(scalar) if isinstance(scalar, str) else scalar
    return ec.derive_private_key(int.from_bytes(raw, "big"), ec.SECP384R1())


@dataclass(frozen=True)
class RecordedReply:
    message: bytes
    session_id: int | None = None
    short_app_id: int | None = None
    session_closed: bool = False


@dataclass
class RecordedRun:
    """Demands exactly the requests of a recorded run, in order, and answers as recorded."""

    steps: list[dict[str, Any]]
    physical: bool = False
    replaced_responses: dict[int, bytes] = field(default_factory=dict)
    position: int = 0

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> RecordedReply:
        step = self.steps[self.position]
        self.position += 1
        expected = bytes.fromhex((self.physical and step.get("physical_request")) or step["request"])
        assert decode_request(message) == decode_request(expected), f"step {step['n']} {step['op']}"
        assert message == expected
        assert (kind, session_id) == (step["queue_entry"]["control_kind"], step["queue_entry"]["session_id"])
        if step["n"] in self.replaced_responses:
            return RecordedReply(self.replaced_responses[step["n"]])
        return RecordedReply(bytes.fromhex((self.physical and step.get("physical_response")) or step["response"]))

    def upcoming(self) -> MborMap:
        """Data of the request that is expected next."""
        return decode_request(bytes.fromhex(self.steps[self.position]["request"]))[1]


@dataclass
class Responder:
    """A device made of functions: request data to response data, or to a status."""

    answer: Callable[[MborMap], MborMap | DdiStatus]
    requests: list[MborMap] = field(default_factory=list)

    def exchange(self, message: bytes, kind: ControlKind, session_id: int | None) -> RecordedReply:
        header, data = decode_request(message)
        assert header.sess_id == session_id
        self.requests.append(data)
        answer = self.answer(data)
        if isinstance(answer, DdiStatus):
            return RecordedReply(encode_error(answer, header, session_id=session_id))
        response = RespHdr(
            rev=header.rev, op=header.op, sess_id=session_id, status=DdiStatus.Success, fips_approved=False
        )
        return RecordedReply(encode_message(response, answer))


def fixed_entropy(ephemeral: str | bytes, *values: bytes) -> Entropy:
    """Entropy that gives the same ephemeral key every time, and for each length the value of that length."""
    by_length = {len(value): value for value in values}
    return Entropy(ephemeral_key=lambda: private_key(ephemeral), random=lambda size: by_length[size])
