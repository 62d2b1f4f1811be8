# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The checks that are no tests, in one list for `scripts/check` and `scripts/test`."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from checking import touched

ROOT: Final = Path(__file__).resolve().parents[2]


class Check(NamedTuple):
    """A command over the whole checkout that fails when something is wrong."""

    command: tuple[str, ...]
    suffixes: tuple[str, ...] = ()
    """Endings of the files that the command can be given, where it is too slow to look at all of them each time."""
    needs_build: bool = False
    """Whether it reads what compiling makes."""


def all_checks() -> list[Check]:
    """Every check, those that answer first in front."""
    return [
        Check(("ruff", "check")),
        Check(("ruff", "format", "--check")),
        Check(("python", "scripts/check-licences")),
        Check(("shellcheck", "--external-sources", *touched.shell_scripts(ROOT))),
        Check(("lint-imports", "--no-logo")),
        Check(("scripts/name-stubs", "--check")),
        Check(("scripts/reference", "--check"), needs_build=True),
        Check(("scripts/man-pages", "--check"), needs_build=True),
        Check(("scripts/fault-table", "--check"), needs_build=True),
        Check(("scripts/audit", "--offline"), needs_build=True),
        Check(("mypy",), needs_build=True),
        Check(("python", "scripts/check-c"), (".c", ".h"), needs_build=True),
    ]


def concerned(checks: Sequence[Check], files: Sequence[str]) -> list[tuple[str, ...]]:
    """Commands for what changes of `files` can break."""
    commands = []
    for check in checks:
        given = tuple(name for name in files if check.suffixes and name.endswith(check.suffixes))
        if given or not check.suffixes:
            commands.append((*check.command, *given))
    return commands


def run(command: Sequence[str]) -> int:
    """Run a command at the root with its output shown; its exit status, 127 if there is no such program."""
    shown = " ".join(command if len(command) < 8 else [*command[:2], "…"])
    print(f"check: {shown}", flush=True)
    try:
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    except FileNotFoundError:
        print(f"check: {command[0]} is not in .venv: run scripts/setup", flush=True)
        return 127


def failed(commands: Sequence[Sequence[str]]) -> list[str]:
    """Run all commands, also after one failed; the first words of those that did."""
    return [" ".join(command[:2]) for command in commands if run(command) != 0]
