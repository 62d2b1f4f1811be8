# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Pages of the repository that a script writes: brought up to date, or told apart from what they should be."""

import sys
from collections.abc import Mapping
from pathlib import Path


def write(wanted: Mapping[Path, str], folder: Path | None, root: Path, *, source: str, script: str) -> int:
    """Have these pages be there, and nothing else in their folder, or with `--check` only tell what would change.

    Args:
        wanted: path and text of each page.
        folder: where they are; None for one that has other files as well.
        root: of the repository.
        source: what the pages come from, for the message.
        script: what writes them, for the message.

    Returns:
        Exit status: 1 if `--check` found something.
    """
    stale = {path: text for path, text in wanted.items() if not path.exists() or path.read_text() != text}
    surplus = sorted(set(folder.glob("*")) - set(wanted)) if folder else []
    if sys.argv[1:] == ["--check"]:
        for path in [*stale, *surplus]:
            print(f"{path.relative_to(root)} is not what the {source} say: run {script}")
        return 1 if stale or surplus else 0
    for path in surplus:
        path.unlink()
    for path, text in stale.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return 0
