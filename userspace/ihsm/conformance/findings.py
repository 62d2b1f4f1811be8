# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What comes of a scenario: findings, each with the rule that was broken and what proves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Witness(StrEnum):
    """Who says so."""

    PROGRAM = "program"
    LOG = "log"
    TRACE = "trace"
    MACHINE = "machine"
    """Counts of what the kernel has given away."""


class Verdict(StrEnum):
    """Of a scenario."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that was broken."""

    witness: Witness
    rule: str
    section: str
    message: str
    """One line."""
    proof: tuple[str, ...] = ()
    """The records, calls or lines, one each."""

    def __str__(self) -> str:
        """One line: message and section."""
        return f"{self.message} ({self.section})"

    def to_json(self) -> dict[str, Any]:
        """As an object."""
        return {
            "witness": str(self.witness), "rule": self.rule, "section": self.section, "message": self.message,
            "proof": list(self.proof),
        }  # fmt: skip


@dataclass(slots=True)
class Result:
    """Of one scenario."""

    name: str
    findings: list[Finding] = field(default_factory=list)
    skipped: str = ""
    """Why it was not carried out, or not to its point."""
    seconds: float = 0.0
    """How long it took, of real time."""

    @property
    def verdict(self) -> Verdict:
        """A finding fails it, also where it did not come to its point."""
        if self.findings:
            return Verdict.FAILED
        return Verdict.SKIPPED if self.skipped else Verdict.PASSED

    def to_json(self) -> dict[str, Any]:
        """As an object."""
        record: dict[str, Any] = {"name": self.name, "verdict": str(self.verdict), "seconds": round(self.seconds, 3)}
        if self.skipped:
            record["skipped"] = self.skipped
        return record | {"findings": [finding.to_json() for finding in self.findings]}


@dataclass(slots=True)
class Suite:
    """What was tried on one machine."""

    name: str
    properties: Mapping[str, str]
    results: list[Result] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As an object."""
        return {
            "name": self.name,
            "properties": dict(self.properties),
            "scenarios": [result.to_json() for result in self.results],
        }


def counts(suites: Sequence[Suite]) -> dict[Verdict, int]:
    """How many scenarios have each verdict."""
    verdicts = [result.verdict for suite in suites for result in suite.results]
    return {verdict: verdicts.count(verdict) for verdict in Verdict}
