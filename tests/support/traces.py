# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings in JSON lines, as tests have them: as events, and as what the product makes of those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from ihsm.trace.driver_side import driver_side
from ihsm.trace.files import Numbered
from ihsm.trace.jsonl import read_lines

DATA: Final = Path(__file__).parents[1] / "data"
BINDS: Final = DATA / "linux-driver-3.2.0-probe-remove-probe-remove.jsonl"
COMMANDS: Final = DATA / "linux-driver-3.2.0-commands.jsonl"
Event = dict[str, Any]


def load(path: Path) -> list[Event]:
    """The events of a recording."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def lines_of(events: list[Event]) -> list[bytes]:
    """The lines of a recording with these events."""
    return [json.dumps(event).encode() + b"\n" for event in events]


def records_of(events: list[Event]) -> list[Numbered]:
    """Events as records, each with the number of its event, from 1."""
    return [Numbered(*found) for found in read_lines(lines_of(events))]


def comparable(events: list[Event]) -> list[tuple[Any, ...]]:
    """What the driver did, in a form in which equal behaviour is equal."""
    return [step.key for step in driver_side(records_of(events))]
