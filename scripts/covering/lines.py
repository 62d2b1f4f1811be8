# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Lines of C code that were reached, from what llvm-cov exports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from covering.reached import Reached


def merged(reports: Iterable[str], root: Path, below: str) -> Reached[int]:
    """What any of several reports in lcov's format has reached, in the files below a folder of a checkout.

    The first is the product's: what others have besides, such as seams, is none of it.
    """
    product, *others = (_hits(report, f"{root}/", below) for report in reports)
    return {
        name: {
            line: hit or any(other.get(name, {}).get(line) for other in others) for line, hit in sorted(lines.items())
        }
        for name, lines in sorted(product.items())
    }


def _hits(report: str, prefix: str, below: str) -> Mapping[str, Mapping[int, bool]]:
    found: dict[str, dict[int, bool]] = defaultdict(dict)
    lines: dict[int, bool] = {}
    for row in report.splitlines():
        key, _, value = row.partition(":")
        if key == "SF":
            name = value.removeprefix(prefix)
            lines = found[name] if value.startswith(prefix) and name.startswith(below) else {}
        elif key == "DA":
            number, hits = (int(word) for word in value.split(",")[:2])
            lines[number] = lines.get(number, False) or hits > 0
    return found


def ranges(numbers: Iterable[int]) -> str:
    """Numbers in ascending order, those that follow each other as first-last."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ", ".join("-".join(map(str, pair)) for pair in found)
