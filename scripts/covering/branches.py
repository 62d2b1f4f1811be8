# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Branches of Python code that were taken, by all processes of a run."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from coverage import Coverage, CoverageData
from coverage.exceptions import DataError

from covering.reached import Reached

STARTED: Final = Path(__file__).parent / "started"


def counting(environment: Mapping[str, str], sources: Path, counts: Path) -> dict[str, str]:
    """An environment in which Python processes, and those that they start, count branches of the files in a folder.

    Each writes into a file of its own in the folder `counts` when it ends.
    """
    path = os.pathsep.join(filter(None, [str(STARTED), environment.get("PYTHONPATH")]))
    return {
        **environment,
        "PYTHONPATH": path,
        "IHSM_COVERED_SOURCES": str(sources),
        "IHSM_COVERED_COUNTS": str(counts),
    }


def taken(counts: Path, root: Path, sources: Path) -> Reached[tuple[int, int]]:
    """What all of the processes have taken together, in each file of a folder, imported or not.

    A branch is a line that can go on in several ways, and the line that comes next; below 0 that is the end of what
    begins there.
    """
    measured = Coverage(data_file=None, config_file=False, branch=True)
    whole = measured.get_data()
    files = [str(file) for file in sources.rglob("*.py")]
    whole.add_arcs({file: () for file in files})  # what the data are of
    whole.touch_files(files)
    for file in counts.iterdir():
        part = CoverageData(no_disk=True)
        with contextlib.suppress(DataError, zlib.error):  # cut short: a test lets its process write no long files
            part.loads(file.read_bytes())
            whole.update(part)
    with tempfile.NamedTemporaryFile() as report:
        measured.json_report(outfile=report.name)
        found = json.load(report)["files"]
    return {
        str(Path(name).absolute().relative_to(root)): {
            (line, following): hit
            for key, hit in (("executed_branches", True), ("missing_branches", False))
            for line, following in file[key]
        }
        for name, file in sorted(found.items())
    }


def arrows(branches: Sequence[tuple[int, int]]) -> str:
    """Branches by their lines."""
    return ", ".join(f"{line}->{following if following > 0 else 'exit'}" for line, following in branches)
