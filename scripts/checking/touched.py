# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Files as git knows them: those touched since a revision, and the shell scripts among all."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

SHELL: Final = re.compile(rb"#!.*\b(ba)?sh\s*\n")


def listed(root: Path, *arguments: str) -> list[str]:
    """Paths that a git command prints, separated by NUL."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=True)
    return [name for name in done.stdout.decode().split("\0") if name]


def named_files(root: Path, folder: Path, names: Sequence[str]) -> list[str]:
    """Files named on a command line in `folder`, as paths from `root`, each once.

    Raises:
        ValueError: a name is of no file below `root`.
    """
    found = {name: (folder / name).resolve() for name in names}
    if wrong := [name for name, path in found.items() if not (path.is_file() and path.is_relative_to(root))]:
        raise ValueError(f"no such file in this checkout: {' '.join(wrong)}")
    return sorted({path.relative_to(root).as_posix() for path in found.values()})


def touched_files(root: Path, revision: str) -> list[str]:
    """Files that differ from where the branch left `revision`, and new ones; deleted ones are left out.

    Raises:
        ValueError: there is no such revision, or nothing in common with it.
    """
    base = subprocess.run(
        ["git", "merge-base", revision, "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    if base.returncode != 0:
        raise ValueError(base.stderr.strip() or f"HEAD and {revision} have no commit in common")
    changed = listed(root, "diff", "--name-only", "--no-renames", "--diff-filter=d", "-z", base.stdout.strip())
    return sorted({*changed, *listed(root, "ls-files", "--others", "--exclude-standard", "-z")})


def shell_scripts(root: Path) -> list[str]:
    """Every file, committed or new, whose first line names a shell."""
    names = listed(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    found = []
    for name in sorted(set(names)):
        if (path := root / name).is_file():
            with path.open("rb") as file:
                if SHELL.match(file.readline()):
                    found.append(name)
    return found
