# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/faults.md, from the declarations in `ihsm_abi`; the text around them is written by hand."""

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from ihsm_abi.fault_actions import ActionSpec, FaultPoint, Parameter
from ihsm_abi.fault_table import ACTIONS

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "faults.md"
BEGIN: Final = "<!-- Table {}, written by scripts/fault-table: change ihsm_abi/fault_table.py. -->"
END: Final = "<!-- End of table {}. -->"
NOTHING: Final = "–"


def main() -> int:
    """Write the tables, or with `--check` only tell whether they would change; 1 if so."""
    text = PAGE.read_text()
    wanted = written(text)
    if sys.argv[1:] == ["--check"]:
        if wanted != text:
            print(f"{PAGE.relative_to(ROOT)} is not what the declarations say: run scripts/fault-table")
        return int(wanted != text)
    PAGE.write_text(wanted)
    return 0


def written(text: str) -> str:
    """The page with its tables as they must be."""
    for name, table in tables().items():
        begin, end = BEGIN.format(name), END.format(name)
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"{PAGE.relative_to(ROOT)}: {begin} and {end} must be there, once each")
        text = re.sub(
            f"{re.escape(begin)}.*?{re.escape(end)}",
            lambda _, whole=f"{begin}\n\n{table}\n{end}": whole,
            text,
            flags=re.S,
        )
    return text


def tables() -> dict[str, str]:
    """Each table by its name."""
    on_command = [spec for spec in ACTIONS.values() if not spec.at_start_only]
    at_start = [spec for spec in ACTIONS.values() if spec.at_start_only]
    heads = ("Action", "At", "The device", "A driver must", "Fits by", "Takes", "Spec")
    return {
        "points": table(("At", "Means"), ((f"`{point}`", point.meaning) for point in FaultPoint)),
        "actions": table(heads, map(row, on_command)),
        "start": table((*heads[:1], *heads[2:4], *heads[5:]), map(start_row, at_start)),
    }


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table in Markdown."""
    heads = tuple(heads)
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def row(spec: ActionSpec) -> tuple[str, ...]:
    """An action as people read it."""
    matches = ", ".join(f"`{name}`" for name in spec.matches) or NOTHING
    return f"`{spec.action}`", f"`{spec.point}`", spec.meaning, spec.driver, matches, takes(spec), spec.spec


def start_row(spec: ActionSpec) -> tuple[str, ...]:
    """One that a device can have from its start alone."""
    return f"`{spec.action}`", spec.meaning, spec.driver, takes(spec), spec.spec


def takes(spec: ActionSpec) -> str:
    """The parameters of an action."""
    return "; ".join(map(parameter, spec.parameters)) or NOTHING


def parameter(declared: Parameter) -> str:
    """One parameter, with its limits."""
    choices = " or ".join(f"`{choice}`" for choice in declared.choices)
    limits = choices or f"{declared.minimum} to {declared.maximum}"
    optional = "" if declared.required else ", may be left out"
    return f"`{declared.name}` ({limits}{optional}): {declared.meaning}"


if __name__ == "__main__":
    sys.exit(main())
