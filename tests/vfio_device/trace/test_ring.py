# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The ring of records: many write, one reads, nobody waits, and what has no room is counted to the last record."""

from __future__ import annotations

import threading
import time

import pytest

from ihsm.trace.records import HEADER_BYTES, Lost, Mark
from ihsm_abi.trace import MAX_RECORD_BYTES, LostWhere, TraceKind
from ihsm_device._native import lib
from ihsm_device.engine import Engine
from ihsm_device.hosts import LoopbackHost
from ihsm_device.scheduler import Scheduler
from ihsm_device.trace import Trace
from support.recorded import Recorded

FUNCTION = 5
RING_BYTES = 8 << 20


@pytest.fixture
def trace() -> Trace:
    return Trace(Engine(Scheduler(), LoopbackHost()), FUNCTION, ())


def test_a_record_has_function_and_time(trace: Trace) -> None:
    recorded = Recorded(trace)
    before = time.time_ns()
    trace.mark("now")
    after = time.time_ns()
    (mark,) = recorded.take()
    assert (mark.function, mark.kind) == (FUNCTION, TraceKind.MARK)
    # Python and C read the same clock, which nobody sets while a test runs
    assert before <= mark.time_ns <= after


def test_what_does_not_fit_is_counted_where_it_is_missing(trace: Trace) -> None:
    recorded = Recorded(trace)
    text = "x" * 1000
    stride = HEADER_BYTES + len(text)
    fit = 0
    while trace.mark(text):
        fit += 1
    assert stride % 8 == 0
    assert fit == RING_BYTES // stride
    for _ in range(9):
        assert not trace.mark(text)
    first, count = trace.drain()
    assert count > 0
    assert trace.mark("after")
    records = recorded.take()
    assert len(records) + count == fit + 2
    *marks, lost, last = records
    assert {type(mark) for mark in marks} == {Mark}
    assert isinstance(lost, Lost)
    assert (lost.count, lost.where) == (10, LostWhere.RING)
    assert isinstance(last, Mark)
    assert last.text == "after"
    assert len(first) == count * stride


def test_losses_at_the_end_are_told_too(trace: Trace) -> None:
    recorded = Recorded(trace)
    while trace.mark("x" * 1000):
        pass
    (lost,) = recorded.of(Lost)
    assert lost.count == 1
    assert recorded.take()[-1] is lost


def test_the_ring_goes_round(trace: Trace) -> None:
    recorded = Recorded(trace)
    written = 0
    for size in range(1, 1000):
        for _ in range(40):
            assert trace.mark(f"{written}:".ljust(size, "."))
            written += 1
        recorded.take()
    assert [int(mark.text.split(":")[0]) for mark in recorded.of(Mark)] == list(range(written))
    assert sum(HEADER_BYTES + len(mark.text) for mark in recorded.of(Mark)) > 2 * RING_BYTES


def test_a_record_beyond_the_limit_is_refused(trace: Trace) -> None:
    recorded = Recorded(trace)
    most = MAX_RECORD_BYTES - HEADER_BYTES
    assert trace.mark("x" * most)
    assert not trace.mark("x" * (most + 1))
    assert len(recorded.take()) == 1


@pytest.mark.parametrize("size", [8, 200])
def test_many_writers_and_a_reader(trace: Trace, size: int) -> None:
    """Each writer's records come in its order, none twice, and those that do not come are counted."""
    recorded = Recorded(trace)
    writers, each = 4, 30_000
    done = threading.Event()
    host = trace._host  # as C threads write: without Python's help

    def write(number: int) -> None:
        for count in range(each):
            content = f"{number}:{count}:".ljust(size, ".").encode()
            lib.ihsm_trace_put(host, TraceKind.MARK, content, len(content))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]

    def read() -> None:
        while not done.is_set():
            recorded.take()

    reader = threading.Thread(target=read)
    for thread in (*threads, reader):
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    reader.join()
    seen: list[list[int]] = [[] for _ in range(writers)]
    for mark in recorded.of(Mark):
        number, count, rest = mark.text.split(":")
        assert set(rest) <= {"."}
        seen[int(number)].append(int(count))
    for counts in seen:
        assert counts == sorted(set(counts))
    lost = sum(record.count for record in recorded.of(Lost))
    assert sum(map(len, seen)) + lost == writers * each
