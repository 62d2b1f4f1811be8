# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The third witness: the trace of a machine's device from its first access on, and what rules say of it."""

from __future__ import annotations

import bisect
import threading
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from ihsm.closing import Closing
from ihsm.conformance.findings import Finding, Witness
from ihsm.conformance.outstanding import Outstanding
from ihsm.control import ControlClient
from ihsm.errors import IhsmError
from ihsm.trace.live import TraceReader
from ihsm.trace.records import Mark, Record, decode
from ihsm.trace.rules import Breach, Seen, check, clock_mark

SCENARIO_MARK: Final = "scenario "
_LOOK_S: Final = 0.2
_END_S: Final = 30.0
SHOWN_RECORDS: Final = 20


@dataclass(frozen=True, slots=True)
class Judged:
    """A breach, and in which scenario."""

    scenario: str
    """"" before the first."""
    finding: Finding


class Recorder(Closing):
    """Records a function's trace; to be made before anybody connects to the function."""

    def __init__(self, socket_path: Path) -> None:
        """Begin; errors as `TraceReader`."""
        self._reader = TraceReader(socket_path)
        self._control = ControlClient(socket_path)
        self._records: list[Record] = []
        self.outstanding = Outstanding()
        """Commands that wait for an answer now."""
        self._failure = ""
        self._is_over = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while not self._reader.ended:
                found = self._reader.read(_LOOK_S)
                for piece in found:
                    record = decode(piece)
                    self._records.append(record)
                    self.outstanding.follow(record)
                if self._is_over and not found:
                    return
        except (IhsmError, OSError) as error:
            self._failure = str(error)

    def begins(self, scenario: str) -> None:
        """What comes now is of this scenario."""
        self._mark(SCENARIO_MARK + scenario)

    def clock_moves(self, seconds: float) -> None:
        """The driver's clock, which stands still by itself, is moved."""
        self._mark(clock_mark(seconds))

    def _mark(self, text: str) -> None:
        try:
            self._control.mark(text)
        except IhsmError as error:
            self._failure = self._failure or str(error)

    def judged(self) -> list[Judged]:
        """The breaches of what was recorded until `close`."""
        records = self._records
        starts = [number for number, record in enumerate(records, 1) if _scenario_of(record)]
        names = [_scenario_of(records[number - 1]) for number in starts]

        def where(breach: Breach) -> str:
            place = bisect.bisect(starts, breach.records[-1].number if breach.records else 0)
            return names[place - 1] if place else ""

        return [Judged(where(breach), _finding(breach)) for breach in check(records)]

    @property
    def failure(self) -> str:
        """Why records are missing."""
        return self._failure

    def close(self) -> None:
        """Record no more; harmless the second time."""
        if self._is_over:
            return
        self._is_over = True
        self._thread.join(_END_S)
        self._reader.close()
        self._control.close()


def _scenario_of(record: Record) -> str:
    is_mark = isinstance(record, Mark) and record.text.startswith(SCENARIO_MARK)
    return record.text.removeprefix(SCENARIO_MARK) if is_mark and isinstance(record, Mark) else ""


def _finding(breach: Breach) -> Finding:
    rule = breach.rule
    shown = breach.records[-SHOWN_RECORDS:]
    return Finding(Witness.TRACE, rule.name, rule.section, breach.message, tuple(map(_line, shown)))


def _line(seen: Seen) -> str:
    """A record for people: its number, when, and its fields."""
    record = seen.record
    shown = (
        f"{name}={value.hex() if isinstance(value, bytes) else value}"
        for name in (declared.name for declared in fields(record))
        if name not in ("time_ns", "function") and (value := getattr(record, name)) is not None
    )
    return f"#{seen.number} +{seen.at_s:.6f} s {record.kind.name.lower()} {' '.join(shown)}"
