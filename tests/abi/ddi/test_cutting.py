# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What recordings may keep of messages: no secret, whatever the message, and all the rest of it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.ddi import (
    API_REV,
    OPERATIONS,
    DdiOp,
    DdiStatus,
    InitBk3Req,
    ReqHdr,
    RespHdr,
    decode_request,
    decode_response,
    encode_error,
    encode_message,
    encode_request,
)
from ihsm_abi.ddi.cutting import CutMessage, cut_request, cut_response, is_secret
from ihsm_abi.mbor import Bool, FixedOctets, MborMap, Nested, Octets
from ihsm_abi.trace import MessageFlags

DATA = Path(__file__).parents[2] / "data"
VECTORS = json.loads((DATA / "ddi-vectors.json").read_text())
CRAFTED = [json.loads(line) for line in (DATA / "ddi-malformed.jsonl").read_text().splitlines()]
SECRET = 0x7F
"""Every byte of a secret; no number, size or opcode of the messages that are made here has it."""
NUMBERS = st.integers(0, 63)


def _values(field: Any) -> st.SearchStrategy[Any]:
    spec = field.spec
    if isinstance(spec, Nested):
        return maps(field.type)
    if isinstance(spec, FixedOctets):
        return st.just(bytes([SECRET if spec.secret else 1]) * spec.size)
    if isinstance(spec, Octets):
        return st.integers(0, min(spec.max, 40)).map(lambda size: bytes([SECRET if spec.secret else 1]) * size)
    if isinstance(spec, Bool):
        return st.booleans()
    return NUMBERS.map(field.type)


@st.composite
def maps(draw: st.DrawFn, cls: type[MborMap]) -> MborMap:
    """Any value of a map type."""
    return cls(
        **{
            field.name: draw(_values(field) if not field.optional else st.none() | _values(field))
            for field in cls.mbor_fields
        }
    )


def zeroed(data: MborMap) -> MborMap:
    """The map with zeros for its secrets."""
    values = {}
    for field in data.mbor_fields:
        value = getattr(data, field.name)
        if isinstance(field.spec, Nested) and value is not None:
            value = zeroed(value)
        elif is_secret(field) and value is not None:
            value = bytes(len(value))
        values[field.name] = value
    return type(data)(**values)


OPERATION = st.sampled_from(list(OPERATIONS.values()))


@given(OPERATION.flatmap(lambda operation: maps(operation.request)), st.binary(max_size=8))
def test_a_request_keeps_all_but_its_secrets(data: MborMap, behind: bytes) -> None:
    message = encode_request(data)
    cut = cut_request(message + behind)
    assert SECRET not in cut.message
    assert cut.cut == message.count(SECRET)
    assert len(cut.message) == len(message)
    assert decode_request(cut.message)[1] == zeroed(data)
    assert cut.flags == (MessageFlags.CUT if cut.cut or behind else MessageFlags(0))


@given(st.data())
def test_a_response_keeps_all_but_its_secrets(data: st.DataObject) -> None:
    operation = data.draw(OPERATION)
    value = data.draw(maps(operation.response))
    header = RespHdr(rev=API_REV, op=operation.op, status=DdiStatus.Success, fips_approved=False)
    message = encode_message(header, value)
    cut = cut_response(message, operation.op)
    assert SECRET not in cut.message
    assert cut.cut == message.count(SECRET)
    assert decode_response(cut.message, operation.response) == (header, zeroed(value))


def test_an_error_is_kept_whole() -> None:
    message = encode_error(DdiStatus.InvalidArg, ReqHdr(rev=API_REV, op=DdiOp.Hmac))
    for op in (DdiOp.Hmac, 5, None):
        assert cut_response(message, op) == CutMessage(message, 0, MessageFlags(0))


def test_what_is_marked() -> None:
    """The list that docs/trace.md gives: a field taken from it is a leak."""
    marked = {
        f"{cls.__name__}.{field.name}"
        for operation in OPERATIONS.values()
        for cls in (operation.request, operation.response)
        for field in cls.mbor_fields
        if is_secret(field)
    }
    text = (Path(__file__).parents[3] / "docs" / "trace.md").read_text()
    assert marked == set(re.findall(r"`(\w+Re(?:q|sp)\.\w+)`", text))


@given(st.binary(max_size=400), st.none() | st.sampled_from(list(OPERATIONS)) | st.integers(0, 0xFFFF_FFFF))
def test_of_what_is_no_message_nothing_is_kept(data: bytes, op: int | None) -> None:
    for cut in (cut_request(data), cut_response(data, op)):
        if MessageFlags.UNDECODABLE in cut.flags:
            assert cut.message == b""


@given(OPERATION.flatmap(lambda operation: maps(operation.request)), st.data())
def test_a_bent_request_keeps_no_secret(data: MborMap, draw: st.DataObject) -> None:
    """The walk goes the decoder's way: where an encoding is odd, either both find the secrets or nothing is kept."""
    message = bytearray(encode_request(data))
    for _ in range(draw.draw(st.integers(1, 3))):
        message[draw.draw(st.integers(0, len(message) - 1))] = draw.draw(st.integers(0, 255).filter(SECRET.__ne__))
    cut = cut_request(bytes(message))
    try:
        header, decoded = decode_request(bytes(message))
    except ValueError:
        assert cut.message == b""
        return
    if cut.message:
        assert decode_request(cut.message) == (header, zeroed(decoded))


@pytest.mark.parametrize(
    "vector", VECTORS["messages"], ids=lambda e: f"{e['name']}-{e['direction']}-{e['dialect']}".replace(" ", "_")
)
def test_recorded_messages(vector: dict[str, Any]) -> None:
    message = bytes.fromhex(vector["hex"])
    cut = cut_request(message) if vector["direction"] == "request" else cut_response(message, vector["op_code"])
    assert MessageFlags.UNDECODABLE not in cut.flags
    assert len(cut.message) == len(message)


def test_a_secret_of_a_malformed_message_is_not_kept() -> None:
    good = encode_request(InitBk3Req(bk3=bytes([SECRET]) * 48))
    assert cut_request(good[:-1]) == CutMessage(b"", 0, MessageFlags.UNDECODABLE)
    for line in CRAFTED:
        cut_request(bytes.fromhex(line["request"]))
