# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/check`: the checks, and the tests of what was touched."""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from checking import checks, selection, touched
from checking.budget import Tally
from mutation.patches import Mutant, PatchError, load

NEIGHBOURS_S: Final = 30.0
"""How long tests of neighbours may begin, in seconds from when pytest has collected all; nothing before that counts."""
COMPILE: Final = ("meson", "compile", "-C", "build/native")
NO_TESTS_COLLECTED: Final = 5
"""pytest's exit status when all that was selected is long or needs a guest."""


def main() -> int:
    """Run what the command line asks for; 1 if anything failed, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/check",
        description="Style, types, imports, licences, shell, and of the touched files' tests those that need neither "
        "a guest nor minutes.",
    )
    parser.add_argument("files", nargs="*", metavar="FILE", help="take these as touched instead of asking git")
    parser.add_argument("--since", metavar="REVISION", default="HEAD", help="touched since the branch left it (HEAD)")
    parser.add_argument("--all", action="store_true", help="every check over everything, and no test")
    arguments = parser.parse_args()
    start = time.monotonic()
    remarks: list[str] = []
    if arguments.all:
        bad = checks.failed([check.command for check in checks.all_checks()])
    else:
        try:
            files = touched.named_files(checks.ROOT, Path.cwd(), arguments.files) or touched.touched_files(
                checks.ROOT, arguments.since
            )
        except ValueError as error:
            print(f"check: {error}", file=sys.stderr)
            return 2
        bad, remarks = check_touched(files)
    took = f"{time.monotonic() - start:.0f} s"
    result = f"FAILED after {took}: {', '.join(bad)}" if bad else f"OK, {took}"
    print("; ".join([f"check: {result}", *remarks]), flush=True)
    return 1 if bad else 0


def check_touched(files: Sequence[str]) -> tuple[list[str], list[str]]:
    """Check, compile and test what `files` concern: the names of what failed, and what was not looked at.

    What needs the build is left alone if compiling fails: it would judge the build before.
    """
    print(f"check: touched: {' '.join(files) or 'nothing'}", flush=True)
    every = checks.all_checks()
    bad = checks.failed(checks.concerned([check for check in every if not check.needs_build], files))
    if checks.run(COMPILE) != 0:
        return [*bad, " ".join(COMPILE[:2])], ["nothing that needs the build was checked or tested"]
    bad += checks.failed(checks.concerned([check for check in every if check.needs_build], files))
    try:
        mutants = load(checks.ROOT)
    except PatchError as error:
        print(f"check: {error}", flush=True)
        bad.append("mutants")
        mutants = []
    failures, remarks = run_tests(files, mutants)
    return bad + failures, remarks


def run_tests(files: Sequence[str], mutants: Sequence[Mutant]) -> tuple[list[str], list[str]]:
    """Run the tests of `files`: the names of what failed, and how many were left out."""
    if without := [name for name in files if not any(selection.tests_of(checks.ROOT, name, mutants))]:
        print(f"check: no tests by path for {' '.join(without)}", flush=True)
    tests = selection.tests_of_all(checks.ROOT, files, mutants)
    if not any(tests):
        return [], []
    with tempfile.TemporaryDirectory(prefix="ihsm-check-") as folder:
        counts = Path(folder, "tally")
        own = ("--own", ":".join(tests.own))
        budget = ("-p", "checking.budget", "--others-for", str(NEIGHBOURS_S), *own, "--tally", str(counts))
        marks = ("-m", "not long and not guest")
        pytest = ("pytest", "-n", "2", "--dist", "worksteal", "-rfEs", *budget, *marks, *tests.own, *tests.neighbours)
        status = checks.run(pytest)
        return verdict(status, Tally.read(counts))


def verdict(status: int, tally: Tally) -> tuple[list[str], list[str]]:
    """What pytest's exit status and counts mean: the names of what failed, and what to say of the rest."""
    if status == NO_TESTS_COLLECTED:
        return [], ["no test ran: those of these files are long or need a guest"]
    remarks = [f"{tally.left_out} of {tally.selected} tests left out"] if tally.left_out else []
    if status != 0:
        return ["tests"], remarks
    return ([] if tally.ran else ["tests: none ran"]), remarks


if __name__ == "__main__":
    sys.exit(main())
