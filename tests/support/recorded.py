# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a function records, taken from its ring by the test itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ihsm.trace.records import Record, RecordSplitter, decode
from ihsm_abi.trace import ALL_KINDS, TraceKind
from ihsm_device.trace import Trace
from support.waiting import until

R = TypeVar("R", bound=Record)


class Recorded:
    """The trace of a function in this process, read here and nowhere else."""

    def __init__(self, trace: Trace, kinds: int = ALL_KINDS) -> None:
        self.trace = trace
        self.records: list[Record] = []
        self.counted = 0
        trace.prepare()
        trace.select(kinds)

    def take(self) -> list[Record]:
        """Everything recorded so far."""
        splitter = RecordSplitter()
        while (drained := self.trace.drain())[1]:
            data, count = drained
            self.records += map(decode, splitter.feed(data))
            self.counted += count
        assert splitter.is_between
        assert len(self.records) == self.counted
        return self.records

    def of(self, cls: type[R]) -> list[R]:
        """Those of one kind."""
        return [record for record in self.take() if isinstance(record, cls)]

    def until(self, condition: Callable[[list[Record]], bool], what: str) -> None:
        """Wait until what is recorded fits."""
        until(lambda: condition(self.take()), what)

    def forget(self) -> None:
        """Begin anew."""
        self.take()
        self.records.clear()
        self.counted = 0


def kinds(*wanted: TraceKind) -> int:
    """Kinds as bits."""
    return sum(1 << kind for kind in wanted)
