# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever a recording has in it, reading, judging and comparing it end in an answer or in TraceError."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from io import BufferedReader, BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.errors import TraceError
from ihsm.trace.diff import differences
from ihsm.trace.files import numbered, read_recording
from ihsm.trace.guest_memory import named_memory
from ihsm.trace.jsonl import LONGEST_LINE, Fetched, Place, read_lines
from ihsm.trace.records import Completion, Entry, Record
from ihsm.trace.replay import resources_for
from ihsm.trace.rules import judge
from support.trace_life import good_life
from support.trace_records import RECORDS

LIFE = good_life().records
NUMBERS = st.integers(0, 300) | st.integers(-1, 1 << 65)
EVENTS = st.dictionaries(
    st.sampled_from(
        ["op", "bar", "off", "size", "value", "sqid", "cqid", "index", "vector", "cid", "addr", "len", "type", "dir"]
    ),
    NUMBERS | st.text(max_size=3) | st.sampled_from(["read", "write", "sqe", "cqe", "prp", "sgl", "tail", "reset"]),
) | st.fixed_dictionaries(
    {"op": st.just("cqe"), "cqid": st.integers(0, 300), "index": NUMBERS, "vector": NUMBERS, "bytes": st.text()}
)


@st.composite
def disturbed(draw: st.DrawFn) -> list[Record]:
    """A good life with records left out, repeated, moved, and others put in."""
    records = list(LIFE)
    for _ in range(draw(st.integers(1, 12))):
        at = draw(st.integers(0, len(records) - 1))
        match draw(st.sampled_from(["drop", "twice", "move", "other", "cut"])):
            case "drop":
                del records[at]
            case "twice":
                records.insert(at, records[at])
            case "move":
                records.insert(draw(st.integers(0, len(records) - 1)), records.pop(at))
            case "other":
                records.insert(at, replace(draw(RECORDS), function=0))
            case "cut":
                record = records[at]
                if isinstance(record, Entry | Completion):
                    records[at] = replace(record, data=record.data[: draw(st.integers(0, 64))])
    return records


@given(st.lists(RECORDS, max_size=30))
def test_any_records(records: list[Record]) -> None:
    assert judge(numbered(records)).records == len(records)
    assert differences(numbered(records), numbered(records)) == []
    named_memory(records)
    assert resources_for(numbered(records)) >= 1


@settings(max_examples=30)
@given(disturbed())
def test_a_life_that_was_disturbed(records: list[Record]) -> None:
    assert judge(numbered(records)) == judge(numbered(records))
    assert differences(numbered(records), numbered(records)) == []
    differences(numbered(LIFE), numbered(records))


@given(st.lists(EVENTS, max_size=8))
def test_any_lines(events: list[dict[str, Any]]) -> None:
    lines = [json.dumps(event).encode() for event in events]
    with contextlib.suppress(TraceError):
        records = [record for _, record in read_lines(lines)]
        judge(numbered(records))


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(TraceError):
        read_recording(BufferedReader(BytesIO(data)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "no JSON"),
        (b"[1]", "no JSON object"),
        (b"[" * 100_000, "no JSON"),
        (b'{"op": "fly"}', "op 'fly' is none of read"),
        (b'{"op": "read", "bar": 0, "off": 1, "size": 4, "value": -1}', "value: -1 is no number"),
        (b'{"op": "read", "bar": true, "off": 1, "size": 4, "value": 1}', "bar: True is no number"),
        (b'{"op": "sqe", "sqid": 0, "bytes": "0g"}', "bytes: no hexadecimal digits"),
        (b'{"op": "cqe", "cqid": 0, "index": 0, "vector": 0, "bytes": "00"}', "a completion of 1 bytes"),
        (b'{"op": "reset", "type": 9}', "reset of type 9"),
        (b'{"op": "sgl", "sqid": 1, "cid": 1, "addr": 1, "bytes": "", "dir": "up"}', "dir: 'up'"),
        (b" " * LONGEST_LINE + b"{}", "longer than"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_a_line_that_is_none_is_named(line: bytes, reason: str) -> None:
    with pytest.raises(TraceError, match=f"line 2: {reason}"):
        list(read_lines([b'{"op": "step", "name": "good"}\n', line]))


def test_what_was_fetched_has_no_bytes() -> None:
    fetched = Fetched(queue=1, cid=1, place=Place.TAIL, address=0, length=1, data=b"x")
    with pytest.raises(TraceError, match="no place"):
        fetched.encode()
