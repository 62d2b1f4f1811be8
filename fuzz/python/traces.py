# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Traces and recordings, as everything that takes one has them: read, shown, judged, compared, prepared for a replay.

An input is a file, pcapng or JSON lines; or, behind a zero byte, records as a device sends them.
"""

import io
import itertools

from harness import instrumented, main

with instrumented():
    from ihsm.errors import TraceError
    from ihsm.trace import pcapng
    from ihsm.trace.decoding import to_json, to_line
    from ihsm.trace.diff import differences
    from ihsm.trace.files import Numbered, numbered, read_recording
    from ihsm.trace.guest_memory import named_memory
    from ihsm.trace.records import RecordSplitter, decode
    from ihsm.trace.replay import resources_for
    from ihsm.trace.rules.judge import check

MAX_RECORDS = 200


def records_of(data: bytes) -> list[Numbered]:
    """What is in an input; TraceError."""
    if data[:1] != b"\0":
        return read_recording(io.BufferedReader(io.BytesIO(data))).records  # type: ignore[arg-type]
    splitter = RecordSplitter()
    half = len(data) // 2
    pieces = itertools.chain(splitter.feed(data[1:half]), splitter.feed(data[max(half, 1) :]))
    return numbered(decode(piece) for piece in pieces)


def one_input(data: bytes) -> None:
    """One recording."""
    try:
        recording = records_of(data)[:MAX_RECORDS]
    except TraceError as error:
        assert "\n" not in str(error)  # noqa: PT017  (no test of pytest)
        return
    records = [record for _, record in recording]
    for record in records:
        assert "\n" not in to_line(record)
        to_json(record)
    check(records)
    assert differences(recording, recording) == []
    resources_for(recording)
    named_memory(records)
    out = io.BytesIO()
    try:
        pcapng.write_file(out, records)
    except TraceError:
        return
    again = read_recording(io.BufferedReader(io.BytesIO(out.getvalue())))  # type: ignore[arg-type]
    assert again.cut is None
    assert [record for _, record in again.records] == records


if __name__ == "__main__":
    main(one_input)
