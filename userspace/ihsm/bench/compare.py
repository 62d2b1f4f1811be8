# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Two result documents side by side."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ihsm.bench.results import FORMAT, WALL
from ihsm.bench.sample import NOISY_SPREAD
from ihsm.errors import IhsmError
from ihsm_abi import json_text

LEAST_SPREAD: Final = 0.02
"""Relative change that counts as none even between runs that hardly differ."""
UNKNOWN_SPREAD: Final = NOISY_SPREAD
"""For figures of few runs, or of documents that do not say: what is noise is not known, so that little is said."""


class CompareError(IhsmError):
    """The file is no result document of this format."""

    exit_code = 2


def load(path: Path) -> dict[str, Any]:
    """Read a document written with --json.

    Raises:
        CompareError: it is none, or of another format.
    """
    try:
        document = json_text.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CompareError(f"{path}: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CompareError(f"{path}: no result document of format {FORMAT}")
    if not _is_document(document):
        raise CompareError(f"{path}: its results are not those of ihsm bench")
    return document


def _is_document(document: dict[str, Any]) -> bool:
    """Whether everything that is read from a document has the type it must have."""
    results, machine = document.get("results"), document.get("machine", {})
    return (
        isinstance(results, list)
        and isinstance(machine, dict)
        and all(
            isinstance(record, dict)
            and isinstance(record.get("id"), str)
            and isinstance(record.get("unit"), str)
            and _is_number(record.get("value"))
            and (record.get("spread") is None or _is_number(record["spread"]))
            for record in results
        )
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True)
class Change:
    """How a figure differs from an earlier one of the same id."""

    id: str
    unit: str
    clock: str
    before: float
    now: float
    spread: float
    """The larger spread of the two: a change within it is none."""
    noisy: bool
    """One of the figures, or of the documents, should not be trusted: there is no verdict."""

    @property
    def relative(self) -> float:
        """Change as a share of the value before."""
        return self.now / self.before - 1

    @property
    def worse_by(self) -> float:
        """The same with worse as positive; more is better for rates, less for all else."""
        return -self.relative if self.unit == "1/s" else self.relative

    @property
    def verdict(self) -> str:
        """noisy, unchanged, or changed for better or worse."""
        if self.noisy:
            return "noisy"
        if abs(self.relative) <= self.spread:
            return "unchanged"
        return f"changed: {'worse' if self.worse_by > 0 else 'better'}"

    def fails(self, percent: float) -> bool:
        """Whether it has become worse by more than so many percent, and more than the spread explains."""
        return not self.noisy and self.worse_by > max(self.spread, percent / 100)

    def row(self) -> tuple[str, ...]:
        """Words for a table with HEADERS."""
        values = (f"{value:.4g} {self.unit}" for value in (self.before, self.now))
        return (self.id, *values, self.clock, f"{self.relative:+.1%}", f"±{self.spread:.0%}", self.verdict)

    def to_json(self) -> dict[str, Any]:
        """The fields and what follows from them."""
        return {**asdict(self), "change": self.relative, "verdict": self.verdict}


HEADERS: Final = ("id", "before", "now", "time", "change", "spread", "")


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Figures that both documents have, in the same unit; those that were 0 before have no relative change."""
    documents_noisy = any(document.get("machine", {}).get("noise") for document in (old, new))
    before = {record["id"]: record for record in old["results"]}
    found = []
    for record in new["results"]:
        earlier = before.get(record["id"])
        if earlier is None or earlier["unit"] != record["unit"] or not earlier["value"]:
            continue
        spread = max(LEAST_SPREAD, _spread(earlier), _spread(record))
        noisy = documents_noisy or bool(earlier.get("noisy")) or bool(record.get("noisy"))
        clock = record.get("clock", WALL)
        found.append(Change(record["id"], record["unit"], clock, earlier["value"], record["value"], spread, noisy))
    return found


def _spread(record: dict[str, Any]) -> float:
    value = record.get("spread")
    return UNKNOWN_SPREAD if value is None else float(value)
