# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""JSON as RFC 8259 has it, in both directions."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi import json_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_is_written_is_read(value: Any) -> None:
    text = json_text.dump(value)
    assert text.isascii()
    assert json_text.parse(text) == json_text.parse(text.encode()) == value
    assert json.loads(json_text.dump(value, indent=1)) == value


@pytest.mark.parametrize(
    "text",
    [
        b"NaN", b"Infinity", b"-Infinity", b"[NaN]", b'{"a": -Infinity}', b"1e999", b"-1e999", b"[1.5e400]", b"", b"{",
        b"\xff", b"\xef\xbb\xbf1", b"\xfe\xff\x001", '"x"'.encode("utf-16"), '"x"'.encode("utf-32"), b"01", b"'a'",
        b"1 2", b"9" * 10000, b"[" * 100000, b'{"a":' * 100000, b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65,
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the module's own error for many kinds of text
        json_text.parse(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_does_not_know_is_not_written(value: float) -> None:
    for whole in (value, [value], {"a": {"b": value}}):
        with pytest.raises(ValueError, match="not JSON compliant"):
            json_text.dump(whole)


def test_what_is_as_deep_as_allowed_is_read_and_written() -> None:
    deep = b"[" * json_text.MAX_DEPTH + b"]" * json_text.MAX_DEPTH
    assert json_text.dump(json_text.parse(deep)).encode() == deep


@pytest.mark.parametrize("text", ['{"a": 1, "a": 1}', '[{"b": {"a": 1, "a": 2}}]'])
def test_names_that_are_there_twice(text: str) -> None:
    json_text.parse(text)
    json_text.parse('[{"a": 1}, {"a": {"a": 2}}]', unique=True)
    with pytest.raises(ValueError, match="an object has a name twice"):
        json_text.parse(text, unique=True)
