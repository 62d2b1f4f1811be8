# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ihsm.trace.records import Record
from ihsm.trace.rules.seen import Proof, Seen
from ihsm.trace.rules.state import FunctionState

Judge = Callable[[FunctionState, Seen], Iterable[Proof]]


class Need(StrEnum):
    """What of a recording a rule cannot do without."""

    HISTORY = "records were lost"
    """All records since the function was last reset or disabled: the value is what to say where some are missing."""
    TIMES = "the records have no times"
    MAPPINGS = "the DMA maps from before the recording are not known"


@dataclass(frozen=True, slots=True)
class Rule:
    """A property of a correct driver."""

    name: str
    section: str
    """Where the specification says so."""
    sentence: str
    """What a driver does that keeps it."""
    judge: Judge | None = None
    """Looks at a record, before the state has it."""
    on: tuple[type[Record], ...] = ()
    """At which records."""
    clock: Judge | None = None
    """Looks at what should have happened until now; the last record so far is given."""
    finish: Judge | None = None
    """Looks at what should have happened, after the last record."""
    needs: tuple[Need, ...] = ()
    excuse: str = ""
    """Why the Linux driver, and its model, break it: whoever tests those passes over such a breach."""


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that a driver has broken, once."""

    rule: Rule
    function: int
    message: str
    records: tuple[Seen, ...]
    """That prove it, in their order."""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "rule": self.rule.name,
            "section": self.rule.section,
            "sentence": self.rule.sentence,
            "function": self.function,
            "message": self.message,
            "records": [
                {"number": seen.number, "kind": seen.record.kind.name, "time_ns": seen.record.time_ns}
                for seen in self.records
            ],
        }
