# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Records from and to their bytes: against the declared layouts, and against bytes that are no records."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.errors import TraceError
from ihsm.trace.records import HEADER_BYTES, TYPES, Entry, Mark, Record, RecordSplitter, Unknown, decode
from ihsm_abi.trace import ALIGNMENT_BYTES, BODIES, HAS_PAYLOAD, MAX_RECORD_BYTES, TRACE_HEADER, TraceKind, padded
from support.trace_records import RECORDS


@given(RECORDS)
def test_a_record_survives_its_bytes(record: Record) -> None:
    assert decode(record.encode()) == record


@given(RECORDS)
def test_numpy_reads_the_same_numbers_at_the_declared_places(record: Record) -> None:
    data = record.encode()
    header = np.frombuffer(data, TRACE_HEADER, 1)[0]
    assert (header["time_ns"], header["kind"], header["function"]) == (record.time_ns, record.kind, record.function)
    assert header["length"] == len(data) - HEADER_BYTES
    body = BODIES[record.kind]
    if body.names:
        fields = np.frombuffer(data, body, 1, HEADER_BYTES)[0]
        for name in body.names:
            value = getattr(record, name, 0)
            assert fields[name] == (0xFFFF if value is None else value)


def test_every_kind_has_a_class_and_says_whether_it_has_a_payload() -> None:
    assert set(TYPES) == set(BODIES) == set(TraceKind) - {TraceKind.SKIP}
    assert {kind for kind, cls in TYPES.items() if cls.payload_field is not None} == HAS_PAYLOAD


def test_a_kind_is_a_bit_of_a_word() -> None:
    assert max(TraceKind) < 32


@given(st.binary(max_size=300))
def test_other_bytes_are_refused_or_survive(data: bytes) -> None:
    with contextlib.suppress(TraceError):
        assert decode(data).encode() == data


@given(RECORDS, st.data())
def test_a_record_without_its_end_is_refused(record: Record, data: st.DataObject) -> None:
    whole = record.encode()
    with pytest.raises(TraceError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_a_kind_of_later_versions_is_kept() -> None:
    data = Mark(time_ns=5, function=2, text="new").encode()
    later = data[:12] + (31).to_bytes(2, "little") + data[14:]
    record = decode(later)
    assert record == Unknown(time_ns=5, function=2, number=31, content=b"new")
    assert record.encode() == later


@pytest.mark.parametrize("record", [Mark(text="x" * MAX_RECORD_BYTES), Entry(queue=1 << 16, slot=0, data=b"")])
def test_what_does_not_fit_is_refused(record: Record) -> None:
    with pytest.raises(TraceError):
        record.encode()


@given(st.lists(RECORDS, max_size=8), st.data())
def test_a_stream_may_come_in_any_pieces(records: list[Record], data: st.DataObject) -> None:
    stream = b"".join(record.encode().ljust(padded(len(record.encode())), b"\0") for record in records)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    splitter = RecordSplitter()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += [decode(record) for record in splitter.feed(stream[start:end])]
    assert found == records
    assert splitter.is_between
    assert len(stream) % ALIGNMENT_BYTES == 0


def test_a_stream_that_cannot_be_is_refused() -> None:
    with pytest.raises(TraceError, match="at most"):
        list(RecordSplitter().feed(b"\xff" * HEADER_BYTES))
