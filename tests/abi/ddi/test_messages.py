# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Every recorded message, byte by byte: decoding, encoding, and the decoder's refusals."""

import json
import timeit
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.ddi import (
    API_REV,
    OPERATIONS,
    ApiRev,
    DdiOp,
    DdiStatus,
    ErrResp,
    HmacReq,
    HmacResp,
    ReqHdr,
    RespHdr,
    control_kind,
    decode_data,
    decode_request,
    decode_request_header,
    decode_response,
    decode_response_header,
    encode_error,
    encode_message,
    encode_request,
)
from ihsm_abi.mbor import U8, U16, U32, U64, Bool, Enum32, FixedOctets, MborDecodeError, MborMap, Nested, Octets

DATA = Path(__file__).parents[2] / "data"
VECTORS = json.loads((DATA / "ddi-vectors.json").read_text())
CRAFTED = [json.loads(line) for line in (DATA / "ddi-malformed.jsonl").read_text().splitlines()]
# Answers given before the data map is looked at, whatever it contains.
BEFORE_DATA = {
    "UnsupportedRevision", "UnsupportedCmd", "SessionExpected", "SessionNotExpected", "SessionNotFound",
    "InvalidArg", "transport failure", "CredentialsNotEstablished", "PartitionNotProvisioned", "SealedBk3AlreadySet",
    "SessionNeedsRenegotiation", "VaultSessionLimitReached",
}  # fmt: skip


def from_json(cls: type[MborMap], content: dict[str, Any]) -> MborMap:
    """The value that a vector describes: byte strings are hex, absent optional fields are left out."""
    values: dict[str, Any] = {}
    for field in cls.mbor_fields:
        if field.name not in content:
            continue
        raw = content[field.name]
        if isinstance(field.spec, Nested):
            values[field.name] = from_json(field.type, raw)
        elif isinstance(field.spec, Octets | FixedOctets):
            values[field.name] = bytes.fromhex(raw)
        else:
            values[field.name] = field.type(raw)
    return cls(**values)


@pytest.mark.parametrize(
    "entry", VECTORS["messages"], ids=lambda e: f"{e['name']}-{e['direction']}-{e['dialect']}".replace(" ", "_")
)
def test_vector_messages(entry: dict[str, Any]) -> None:
    message = bytes.fromhex(entry["hex"])
    assert len(message) == entry["length"]
    operation = OPERATIONS[DdiOp(entry["op_code"])]
    assert operation.kind == entry["control_kind"]
    header: ReqHdr | RespHdr
    if entry["direction"] == "request":
        header, offset = decode_request_header(message)
        cls = operation.request
    else:
        header, offset = decode_response_header(message)
        cls = ErrResp if header.status != DdiStatus.Success else operation.response
    data, end = decode_data(cls, message, offset)
    assert end == len(message)
    assert header == from_json(type(header), entry["header"])
    assert data == from_json(cls, entry["data"])
    assert encode_message(header, data) == message
    if entry["direction"] == "request":
        session_id = header.sess_id
        assert encode_request(data, session_id=session_id) == message
        assert decode_request(message) == (header, data)
    for array in entry.get("byte_arrays", []):
        value: Any = data
        for name in array["field"].split("."):
            value = getattr(value, name)
        start = array["data_offset"]
        assert message[start : start + array["length"]] == value


@pytest.mark.parametrize(
    "step", [step for step in VECTORS["executed"]["steps"] if "request" in step], ids=lambda s: f"{s['n']}-{s['op']}"
)
@pytest.mark.parametrize("form", ["", "physical_"])
def test_executed_messages(step: dict[str, Any], form: str) -> None:
    request = bytes.fromhex(step.get(form + "request") or step["request"])
    header, data = decode_request(request)
    assert header.op.name == step["op"]
    assert encode_message(header, data) == request
    response = bytes.fromhex(step.get(form + "response") or step["response"])
    answer, content = decode_response(response, OPERATIONS[header.op].response)
    assert answer.status.name == step["status"]
    assert encode_message(answer, content if content is not None else ErrResp()) == response


def decoding_fails(message: bytes, *, trailing_is_error: bool) -> str | None:
    """What the two-step decoder reports: None, or header/data with the kind of the error."""
    try:
        header, offset = decode_request_header(message)
    except MborDecodeError as error:
        return f"header: {error.kind.name}"
    operation = OPERATIONS.get(header.op)
    if operation is None:
        return None
    try:
        _, end = decode_data(operation.request, message, offset)
    except MborDecodeError as error:
        return f"data: {error.kind.name}"
    return "data: trailing bytes" if trailing_is_error and end != len(message) else None


@pytest.mark.parametrize("entry", VECTORS["malformed"], ids=lambda e: e["name"].replace(" ", "_"))
def test_malformed_requests(entry: dict[str, Any]) -> None:
    found = decoding_fails(bytes.fromhex(entry["request"]), trailing_is_error=True)
    expected = entry.get("codec")
    if expected == "header: envelope count is not 2":
        assert found == "header: InvalidLen"
    elif expected is None or expected == "ok":
        assert found is None
    elif expected == "data not decoded":
        assert found == "data: InvalidId"
    else:
        assert found == expected
    if "simulator_response" in entry:
        check_error_response(entry)


@pytest.mark.parametrize("entry", CRAFTED, ids=lambda e: f"{e['area']}-{e['name']}".replace(" ", "_"))
def test_crafted_requests(entry: dict[str, Any]) -> None:
    """A request that is answered with DdiDecodeFailed does not decode; one that reached its operation does."""
    message = bytes.fromhex(entry["request"])
    simulator = entry["simulator_status"]
    strict = decoding_fails(message, trailing_is_error=True)
    lenient = decoding_fails(message, trailing_is_error=False)
    profile = entry.get("profile_status") or simulator
    if simulator == "DdiDecodeFailed":
        assert strict is not None
    elif simulator not in BEFORE_DATA and profile == simulator:
        # The simulator does not look at this operation's data.
        assert strict is None or decode_request_header(message)[0].op is DdiOp.GetCertChainInfo
    if profile == "DdiDecodeFailed":
        assert lenient is not None
    elif profile not in BEFORE_DATA and not profile.startswith("completion"):
        assert lenient is None
    for key in ("simulator", "profile"):
        if entry.get(f"{key}_response"):
            answer = bytes.fromhex(entry[f"{key}_response"])
            header, offset = decode_response_header(answer)
            assert header.status.name == entry[f"{key}_status"]
            cls = OPERATIONS[header.op].response if header.status == DdiStatus.Success else ErrResp
            data, end = decode_data(cls, answer, offset)
            assert end == len(answer)
            assert encode_message(header, data) == answer
    if simulator == "DdiDecodeFailed":
        check_error_response(entry)


def check_error_response(entry: dict[str, Any]) -> None:
    """The simulator's error response is the header echo that `encode_error` makes."""
    if not entry.get("simulator_response") or entry["simulator_status"] not in DdiStatus.__members__:
        return
    try:
        header, _ = decode_request_header(bytes.fromhex(entry["request"]))
    except MborDecodeError:
        header = None
    status = DdiStatus[entry["simulator_status"]]
    expected = encode_error(status, header, session_id=None if header is None else header.sess_id)
    assert expected.hex() == entry["simulator_response"]


def test_requests_of_unknown_operations_do_not_decode() -> None:
    message = bytes.fromhex("A21800A118021A0000270F1801A0")
    header, _ = decode_request_header(message)
    assert header.op == 9999
    assert control_kind(header.op) == 3
    with pytest.raises(MborDecodeError, match="9999"):
        decode_request(message)


def test_revisions_are_ordered_by_major_then_minor() -> None:
    assert ApiRev(major=0, minor=9) < API_REV < ApiRev(major=1, minor=1) < ApiRev(major=10, minor=0)
    assert ApiRev(major=1, minor=0) >= API_REV


def values_of(cls: type[MborMap]) -> st.SearchStrategy[MborMap]:
    """Any value of a map type."""
    parts: dict[str, st.SearchStrategy[Any]] = {}
    for field in cls.mbor_fields:
        spec = field.spec
        strategy: st.SearchStrategy[Any]
        if isinstance(spec, Nested):
            strategy = values_of(field.type)
        elif isinstance(spec, Octets):
            strategy = st.binary(max_size=min(spec.max, 24)) | st.just(bytes(spec.max))
        elif isinstance(spec, FixedOctets):
            strategy = (
                st.binary(min_size=spec.size, max_size=spec.size) if spec.size < 64 else st.just(bytes(spec.size))
            )
        elif isinstance(spec, Bool):
            strategy = st.booleans()
        elif isinstance(spec, Enum32):
            strategy = st.sampled_from(list(field.type)) | st.builds(field.type, st.integers(0, 2**32 - 1))
        else:
            width = {U8: 8, U16: 16, U32: 32, U64: 64}[type(spec)]
            strategy = st.integers(0, 2**width - 1)
        parts[field.name] = st.none() | strategy if field.optional else strategy
    return st.builds(cls, **parts)


ANY_REQUEST = st.sampled_from(list(OPERATIONS.values())).flatmap(lambda o: values_of(o.request))
ANY_RESPONSE = st.sampled_from(list(OPERATIONS.values())).flatmap(
    lambda o: st.tuples(st.just(o), values_of(RespHdr), values_of(o.response))
)


@given(ANY_REQUEST, st.none() | st.integers(0, 0xFFFF))
def test_requests_round_trip(data: MborMap, session_id: int | None) -> None:
    header, decoded = decode_request(encode_request(data, session_id=session_id))
    assert decoded == data
    assert header.sess_id == session_id


@given(ANY_RESPONSE)
def test_responses_round_trip(content: tuple[Any, RespHdr, MborMap]) -> None:
    operation, header, data = content
    message = encode_message(header, data)
    if header.status == DdiStatus.Success:
        assert decode_response(message, operation.response) == (header, data)
    else:
        assert decode_response(message, operation.response) == (header, None)


@given(ANY_REQUEST, st.data())
def test_damaged_requests_never_crash(request_data: MborMap, data: st.DataObject) -> None:
    message = bytearray(encode_request(request_data, session_id=1))
    for _ in range(data.draw(st.integers(0, 3))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    decoding_fails(bytes(message[: data.draw(st.integers(0, len(message)))]), trailing_is_error=True)


@given(st.binary(max_size=64))
def test_random_bytes_never_crash(junk: bytes) -> None:
    decoding_fails(junk, trailing_is_error=True)
    decoding_fails(bytes.fromhex("A21800A118021A00000435") + junk, trailing_is_error=True)


def test_codec_speed_is_shown() -> None:
    """Prints microseconds per message (pytest -s); nothing is asserted about time."""
    message = encode_request(HmacReq(key_id=5, msg=bytes(32)), session_id=1)
    request = HmacReq(key_id=5, msg=bytes(32))
    header = RespHdr(rev=API_REV, op=DdiOp.Hmac, sess_id=1, status=DdiStatus.Success, fips_approved=False)
    response = HmacResp(tag=bytes(32))
    for name, action in {
        "encode request": lambda: encode_request(request, session_id=1),
        "decode request": lambda: decode_request(message),
        "encode response": lambda: encode_message(header, response),
    }.items():
        rounds = 5000
        seconds = min(timeit.repeat(action, number=rounds, repeat=3))
        print(f"{name}: {seconds / rounds * 1e6:.2f} us")
    assert decode_request(message)[1] == request
