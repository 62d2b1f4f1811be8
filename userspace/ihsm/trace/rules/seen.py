# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Records with their place and time, what they prove, and how long a driver has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ihsm.trace.records import Mark, Record

CLOCK_MARK: Final = re.compile(r"clock \+(\d{1,9}(?:\.\d{1,9})?) s")
"""Mark of somebody who has moved the clock of a driver, whose time does not pass by itself."""


def clock_mark(seconds: float) -> str:
    """Text of a mark that tells rules: the driver's clock was moved on by so much. Limits count it as time."""
    return f"clock +{seconds:.9f} s"


def added_by(record: Record) -> float:
    """Seconds that a record adds to time."""
    found = CLOCK_MARK.fullmatch(record.text) if isinstance(record, Mark) else None
    return float(found[1]) if found is not None else 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a driver has, in seconds."""

    head_s: float = 5.0
    """From an interrupt to the head of the completion queue; here time that a mark adds does not count, for whoever
    serves interrupts needs no clock."""
    answer_s: float = 10.0
    """From the fetching of a command that is not answered to its recovery (spec 01 §9: 6 s, and twice 100 jiffies)."""
    fatal_s: float = 10.0
    """From a read of CSTS.CFS to the controller's reset."""
    release_s: float = 1.0
    """From the unmapping of memory that a command still has to the end of that command by a disable (spec 01 §8.3)."""
    idle_s: float = 1.0
    """A queue whose commands were all answered for so long has no reason to be recovered."""
    admin_s: float = 30.0
    """After so long the command id of an admin command that was not answered is free again (spec 01 §6)."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A record with its place."""

    number: int
    """In the recording, see `ihsm.trace.files.Numbered`."""
    record: Record
    at_s: float
    """Time since the first record, in seconds, with what marks add."""
    real_s: float
    """The same without that."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What is wrong, and what shows it."""

    message: str
    """One line; names values, not the rule."""
    records: tuple[Seen, ...]
    """In their order; the last one is that with which it became wrong."""
