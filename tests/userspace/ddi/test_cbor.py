# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The CBOR of reports: agrees with another library on what it takes, and takes nothing else."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.ddi.cbor import CborError, decode, encode_bytes

INTEGERS = st.integers(-(1 << 64), (1 << 64) - 1)
LEAVES = st.one_of(INTEGERS, st.binary(max_size=300), st.text(max_size=30))
ITEMS = st.one_of(
    LEAVES,
    st.lists(LEAVES, max_size=30),
    st.dictionaries(st.one_of(INTEGERS, st.text(max_size=5)), st.one_of(LEAVES, st.lists(LEAVES, max_size=3))),
)


@given(ITEMS)
def test_another_library_says_the_same(item: Any) -> None:
    assert decode(cbor2.dumps(item)) == item
    assert decode(cbor2.dumps(cbor2.CBORTag(18, item)), tag=18) == item


@pytest.mark.parametrize("length", [0, 23, 24, 255, 256, 65535, 65536])
def test_byte_strings(length: int) -> None:
    assert encode_bytes(bytes(length)) == cbor2.dumps(bytes(length))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("", "end inside"),
        ("18", "end inside"),
        ("5bffffffffffffffff00", "end inside"),
        ("9bffffffffffffffff", "end inside"),
        ("bbffffffffffffffff", "end inside"),
        ("0000", "1 bytes after"),
        ("61ff", "UTF-8"),
        ("a200000001", "key 0 at byte 3 is there twice"),
        ("a20000180001", "key 0 at byte 3 is there twice"),
        ("a18000", "neither a number nor text"),
        ("a14000", "neither a number nor text"),
        ("a1a000", "neither a number nor text"),
        ("5f4100ff", "indefinite"),
        ("9fff", "indefinite"),
        ("bfff", "indefinite"),
        ("1c", "reserved"),
        ("f4", "simple value"),
        ("f6", "simple value"),
        ("f93c00", "simple value"),
        ("c100", "tag 1 "),
        ("c249010000000000000000", "tag 2 "),
        ("c5821b000000007fffffff01", "tag 5 "),
        ("d8236129", "tag 35 "),
        ("d8246178", "tag 36 "),
        ("d81c81d81d00", "tag 28 "),
        ("8181818180", "levels"),
        ("81" * 100_000, "levels"),
    ],
)
def test_what_a_report_has_not(data: str, text: str) -> None:
    with pytest.raises(CborError, match=text):
        decode(bytes.fromhex(data))


@pytest.mark.parametrize("data", ["80", "d18484404040", "d28480"])
def test_another_tag(data: str) -> None:
    with pytest.raises(CborError):
        decode(bytes.fromhex(data), tag=18)


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    try:
        value = decode(data)
    except CborError:
        return
    assert cbor2.loads(data) == value
