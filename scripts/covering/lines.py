# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Lines that were reached, from what llvm-cov exports, and how they are shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

Reached = Mapping[str, Mapping[int, bool]]
"""By file, relative to the checkout, and by line: whether it was reached. Lines without code are not there."""


def merged(reports: Iterable[str], root: Path, below: str) -> Reached:
    """What any of several reports in lcov's format has reached, in the files below a folder of a checkout."""
    found: dict[str, dict[int, bool]] = defaultdict(dict)
    prefix = f"{root}/"
    for report in reports:
        lines: dict[int, bool] = {}
        for row in report.splitlines():
            key, _, value = row.partition(":")
            if key == "SF":
                name = value.removeprefix(prefix)
                lines = found[name] if value.startswith(prefix) and name.startswith(below) else {}
            elif key == "DA":
                number, hits = (int(word) for word in value.split(",")[:2])
                lines[number] = lines.get(number, False) or hits > 0
    return {name: lines for name, lines in sorted(found.items()) if lines}


def share(lines: Iterable[bool]) -> float:
    """How many of them were reached, of 100."""
    all_of_them = list(lines)
    return 100 * sum(all_of_them) / len(all_of_them)


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in ascending order, those that follow each other as first-last."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join("-".join(map(str, pair)) for pair in found)


def table(reached: Reached) -> Iterator[str]:
    """A line for each file, with what was not reached of it; then the whole."""
    for name, lines in reached.items():
        missed = ranges(number for number, hit in sorted(lines.items()) if not hit)
        yield f"{share(lines.values()):5.1f} %  {name}{': ' if missed else ''}{missed}"
    everything = [hit for lines in reached.values() for hit in lines.values()]
    yield f"{share(everything):5.1f} %  of {len(everything)} lines"
