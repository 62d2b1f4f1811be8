# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The second witness: new lines of the kernel's log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from ihsm.conformance.findings import Finding, Witness
from ihsm.conformance.scenario import Act, Run, Scenario, Start
from ihsm.guest.kernel_log import Complaint, Kind, find_complaints, parse_dmesg

SECTION: Final = "Linux, admin-guide/bug-hunting"
_REPORT: Final = "WARNING: "
_DISTURBING: Final = frozenset({Act.RESET, Act.REMOVE, Act.RETURN, Act.SHUTDOWN})


def is_quiet(scenario: Scenario) -> bool:
    """Whether nothing happens that a driver would be right to call an error."""
    acts = {step.what for step in scenario.steps if isinstance(step, Run | Start)}
    return not scenario.faults and not acts & _DISTURBING


def log_findings(scenario: Scenario, lines: Sequence[str], drivers: Sequence[str]) -> list[Finding]:
    """What the log says that it should not.

    Args:
        scenario: what was done meanwhile: in one that is quiet, a driver that speaks of errors is a finding.
        lines: those that came meanwhile.
        drivers: names of the driver.
    """
    return [_finding(complaint) for complaint in _complaints(lines, drivers if is_quiet(scenario) else ())]


def _complaints(lines: Sequence[str], drivers: Sequence[str]) -> Iterator[Complaint]:
    parsed = parse_dmesg("\n".join(lines))
    found = find_complaints(parsed, drivers)
    yield from found
    # Reports of a kernel that is no compiled one: a line each, which name a line of Python.
    known = {line for complaint in found for line in complaint.lines}
    for line in parsed:
        if line.text.startswith(_REPORT) and line.text not in known:
            bare = line._replace(text=line.text.removeprefix(_REPORT))
            kind = next((one.kind for one in find_complaints([bare])), Kind.WARNING)
            yield Complaint(kind, bare.text, lines=(line.text,))


def _finding(complaint: Complaint) -> Finding:
    rule = "log-" + complaint.kind.name.lower().replace("_", "-")
    return Finding(Witness.LOG, rule, SECTION, complaint.title, complaint.lines or (complaint.title,))
