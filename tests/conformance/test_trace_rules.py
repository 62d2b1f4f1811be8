# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The recorded Linux driver, judged: it breaks these rules and no other, each with its section of the specification."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from ihsm.trace.rules import Need, judge
from support.traces import BINDS, COMMANDS, load, records_of

BROKEN: Final[dict[Path, list[tuple[str, str, int]]]] = {
    BINDS: [],
    COMMANDS: [
        ("reset-noticed", "01 §8.6", 683),  # the command that meets a device that was reset
        ("reset-noticed", "01 §8.6", 686),  # the DELETE_SQ of the recovery, which meets no admin queue either
    ],
}
"""Rule, section, and the line that breaks it."""


@pytest.mark.parametrize("trace", BROKEN, ids=lambda path: path.stem)
def test_the_recorded_driver_breaks_no_other_rule(trace: Path) -> None:
    verdict = judge(records_of(load(trace)))
    found = [(one.rule.name, one.rule.section, one.records[-1].number) for one in verdict.breaches]
    assert found == BROKEN[trace]
    assert all(breach.rule.excuse for breach in verdict.breaches)


@pytest.mark.parametrize("trace", BROKEN, ids=lambda path: path.stem)
def test_what_lines_do_not_tell_is_not_decided(trace: Path) -> None:
    """They have no times and no DMA maps; all else is."""
    verdict = judge(records_of(load(trace)))
    assert {one.reason for one in verdict.undecided} == {Need.TIMES, Need.MAPPINGS}
