# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The MBOR codec: elements, leniency and order of checks of spec 03 §2, and what no input may do to it."""

import json
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.ddi import DdiOp
from ihsm_abi.mbor import (
    U8,
    U16,
    U32,
    U64,
    Bool,
    DecodeErrorKind,
    EncodeErrorKind,
    Enum32,
    FixedOctets,
    MborDecodeError,
    MborEncodeError,
    MborMap,
    Nested,
    Octets,
    OpenEnum,
    decode,
    encode,
)

VECTORS = json.loads((Path(__file__).parents[1] / "data" / "ddi-vectors.json").read_text())


class Colour(OpenEnum):
    Red = 1


class OneU8(MborMap):
    value: Annotated[int, U8(1)]


class OneU16(MborMap):
    value: Annotated[int, U16(1)]


class OneU32(MborMap):
    value: Annotated[int, U32(1)]


class OneU64(MborMap):
    value: Annotated[int, U64(1)]


class OneBool(MborMap):
    value: Annotated[bool, Bool(1)]


class OneEnum(MborMap):
    value: Annotated[DdiOp, Enum32(1)]


class Array4(MborMap):
    value: Annotated[bytes, FixedOctets(1, 4)]


class Array16(MborMap):
    value: Annotated[bytes, Octets(1, 16)]


class Inner(MborMap):
    data: Annotated[bytes, Octets(1, 9)]


class Everything(MborMap):
    """Every kind of field, optional and required, in an order that moves the alignment about."""

    a: Annotated[int, U8(1)]
    b: Annotated[bytes | None, Octets(2, 7)] = None
    c: Annotated[Inner | None, Nested(3)] = None
    d: Annotated[bool, Bool(4)]
    e: Annotated[bytes, Octets(5, 300)]
    f: Annotated[int | None, U64(6)] = None
    g: Annotated[Colour | None, Enum32(7)] = None
    h: Annotated[bytes | None, FixedOctets(8, 3)] = None
    i: Annotated[Inner, Nested(9)]
    j: Annotated[bytes, Octets(10, 4)]
    k: Annotated[bool | None, Bool(11)] = None
    l: Annotated[int, U32(12)]  # noqa: E741
    m: Annotated[bytes | None, Octets(13, 2)] = None


class Optionals(MborMap):
    a: Annotated[int | None, U8(1)] = None
    b: Annotated[int | None, U8(2)] = None


ELEMENT_CLASSES: dict[str, type[MborMap]] = {
    "u8": OneU8,
    "u16": OneU16,
    "u32": OneU32,
    "u64": OneU64,
    "bool": OneBool,
    "enum": OneEnum,
    "fixed_bytes": Array4,
    "bytes": Array16,
}
MAP_AND_ID = bytes.fromhex("A11801")


def element_value(entry: dict[str, Any]) -> Any:
    return bytes.fromhex(entry["value"]) if entry["type"] in ("bytes", "fixed_bytes") else entry["value"]


def failure(cls: type[MborMap], data: bytes) -> DecodeErrorKind:
    with pytest.raises(MborDecodeError) as caught:
        decode(cls, data)
    return caught.value.kind


@pytest.mark.parametrize("entry", VECTORS["elements"], ids=lambda e: f"{e['type']}-{e['value']}-{e['marker_offset']}")
def test_element_encodings(entry: dict[str, Any]) -> None:
    cls = ELEMENT_CLASSES[entry["type"]]
    position = entry["marker_offset"] - len(MAP_AND_ID)
    value = cls(value=element_value(entry))  # type: ignore[call-arg]  # each class has this one field
    expected = MAP_AND_ID + bytes.fromhex(entry["hex"])
    assert encode(value, position=position) == expected
    assert decode(cls, expected) == (value, len(expected))


@pytest.mark.parametrize("entry", VECTORS["value_decoding"], ids=lambda e: f"{e['type']}-{e['hex'][:16]}")
def test_value_decoding(entry: dict[str, Any]) -> None:
    data = bytes.fromhex(entry["hex"])
    if entry["type"] == "map_header":
        # A header alone: entries that it announces and that are not there are left over.
        if "error" in entry:
            assert failure(Optionals, data).name == entry["error"]
        elif entry["value"] == 0:
            assert decode(Optionals, data) == (Optionals(), entry["consumed"])
        else:
            assert failure(Optionals, data) is DecodeErrorKind.InvalidLen
        return
    cls = ELEMENT_CLASSES[entry["type"]]
    if entry["type"] == "bytes" and entry["max"] != 16:
        cls = type("Sized", (MborMap,), {"__annotations__": {"value": Annotated[bytes, Octets(1, entry["max"])]}})
    if entry["type"] == "fixed_bytes" and entry["max"] != 4:
        cls = type("Sized", (MborMap,), {"__annotations__": {"value": Annotated[bytes, FixedOctets(1, entry["max"])]}})
    message = MAP_AND_ID + data
    if "error" in entry:
        assert failure(cls, message).name == entry["error"]
    else:
        value, end = decode(cls, message)
        assert value.value == element_value(entry)  # type: ignore[attr-defined]
        assert end == len(MAP_AND_ID) + entry["consumed"]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("A0", "InvalidId"),  # required field, count used up
        ("A1", "BufferUnderFlow"),
        ("A118", "BufferUnderFlow"),
        ("A11802", "InvalidId"),
        ("A11801", "BufferUnderFlow"),
        ("A2180118051801", "InvalidLen"),  # duplicate id after the last field
        ("A21801180518021806", "InvalidLen"),  # unknown id after the last field
        ("A218021806", "InvalidId"),  # unknown id before a required field
        ("9F18011805", "ExpectedMap"),
    ],
)
def test_map_rules(data: str, kind: str) -> None:
    assert failure(OneU8, bytes.fromhex(data)).name == kind


def test_optional_fields_are_recognised_by_look_ahead() -> None:
    assert decode(Optionals, bytes.fromhex("A118021807")) == (Optionals(b=7), 5)
    assert decode(Optionals, bytes.fromhex("A0")) == (Optionals(), 1)
    # Markers of the id and of the value are ignored.
    assert decode(Optionals, bytes.fromhex("A1FF01007F")) == (Optionals(a=0x7F), 5)
    # Fewer than two bytes left: both are absent, and the entry that was announced is left over.
    assert failure(Optionals, bytes.fromhex("A118")) is DecodeErrorKind.InvalidLen
    # Count 1 although two entries follow: the second stays unread.
    assert decode(Optionals, bytes.fromhex("A11801180918021807")) == (Optionals(a=9), 5)
    # Descending ids.
    assert failure(Optionals, bytes.fromhex("A21802180718011809")) is DecodeErrorKind.InvalidLen


def test_array_padding_beyond_the_end_underflows() -> None:
    assert failure(Array16, MAP_AND_ID + bytes.fromhex("83000000")) is DecodeErrorKind.BufferUnderFlow


def test_unknown_enumeration_values_survive() -> None:
    value, _ = decode(OneEnum, MAP_AND_ID + bytes.fromhex("1A12345678"))
    assert value.value == 0x12345678
    assert isinstance(value.value, DdiOp)
    assert not value.value.known
    assert DdiOp.Hmac.known
    assert encode(value) == MAP_AND_ID + bytes.fromhex("1A12345678")
    with pytest.raises(ValueError, match="not a valid"):
        DdiOp(1 << 32)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (OneU8(value=256), EncodeErrorKind.InvalidParameter),
        (OneU16(value=-1), EncodeErrorKind.InvalidParameter),
        (Array4(value=b"abc"), EncodeErrorKind.InvalidLen),
        (Array16(value=bytes(17)), EncodeErrorKind.BufferOverflow),
    ],
)
def test_values_outside_their_declaration(value: MborMap, kind: EncodeErrorKind) -> None:
    with pytest.raises(MborEncodeError) as caught:
        encode(value)
    assert caught.value.kind is kind


def test_room_is_respected() -> None:
    value = Array16(value=b"abc")
    size = len(encode(value))
    assert encode(value, limit=size) == encode(value)
    with pytest.raises(MborEncodeError) as caught:
        encode(value, limit=size - 1)
    assert caught.value.kind is EncodeErrorKind.BufferOverflow


def test_ids_must_ascend() -> None:
    with pytest.raises(TypeError, match="ascending"):
        type("Wrong", (MborMap,), {"__annotations__": {"a": Annotated[int, U8(2)], "b": Annotated[int, U8(1)]}})


INNER = st.builds(Inner, data=st.binary(max_size=9))
EVERYTHING = st.builds(
    Everything,
    a=st.integers(0, 0xFF),
    b=st.none() | st.binary(max_size=7),
    c=st.none() | INNER,
    d=st.booleans(),
    e=st.binary(max_size=300),
    f=st.none() | st.integers(0, 2**64 - 1),
    g=st.none() | st.builds(Colour, st.integers(0, 2**32 - 1)),
    h=st.none() | st.binary(min_size=3, max_size=3),
    i=INNER,
    j=st.binary(max_size=4),
    k=st.none() | st.booleans(),
    l=st.integers(0, 2**32 - 1),
    m=st.none() | st.binary(max_size=2),
)


def arrays_of(value: MborMap) -> list[bytes]:
    """The non-empty variable arrays of a map and of the maps inside it."""
    found = []
    for field in value.mbor_fields:
        content = getattr(value, field.name)
        if isinstance(content, MborMap):
            found += arrays_of(content)
        elif isinstance(field.spec, Octets) and content:
            found.append(content)
    return found


@given(EVERYTHING, st.integers(0, 40), st.binary(max_size=5))
def test_decode_inverts_encode(value: Everything, position: int, trailing: bytes) -> None:
    encoded = encode(value, position=position)
    for form in (encoded, bytearray(encoded), memoryview(encoded)):
        assert decode(Everything, form) == (value, len(encoded))
    message = bytes(position) + encoded + trailing
    assert decode(Everything, message, position) == (value, position + len(encoded))


@given(EVERYTHING, st.integers(0, 8))
def test_arrays_are_aligned_within_the_message(value: Everything, position: int) -> None:
    message = bytes(position) + encode(value, position=position)
    for array in arrays_of(value):
        starts = [at for at in range(0, len(message), 4) if message.startswith(array, at)]
        assert starts, "no aligned copy of the array in the message"


@given(st.data(), EVERYTHING)
def test_damaged_input_never_crashes(data: st.DataObject, value: Everything) -> None:
    damaged = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        decoded, end = decode(Everything, cut)
    except MborDecodeError:
        return
    assert end <= len(cut)
    assert decode(Everything, encode(decoded))[0] == decoded


@given(st.binary(max_size=80))
def test_random_input_never_crashes(junk: bytes) -> None:
    for cls in (Everything, Optionals, Array4, OneBool):
        try:
            _, end = decode(cls, junk)
        except MborDecodeError:
            continue
        assert end <= len(junk)
