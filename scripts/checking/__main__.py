# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/check`: the checks, and the tests of what was touched."""

import argparse
import sys
import time
from typing import Final

from checking import checks, selection, touched

TESTS_UNTIL_S: Final = 50.0
"""When the tests of neighbours end, in seconds from the start, so that all is over within a minute."""
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
    if arguments.all:
        bad = checks.failed([check.command for check in checks.all_checks()])
    else:
        try:
            files = arguments.files or touched.touched_files(checks.ROOT, arguments.since)
        except ValueError as error:
            parser.error(str(error))
        bad = check_touched(files, start + TESTS_UNTIL_S)
    took = f"{time.monotonic() - start:.0f} s"
    print(f"check: FAILED after {took}: {', '.join(bad)}" if bad else f"check: OK, {took}", flush=True)
    return 1 if bad else 0


def check_touched(files: list[str], until: float) -> list[str]:
    """Compile, check and test what `files` concern; the names of what failed.

    From `until` on (a reading of `time.monotonic`) only tests start that are made for a touched file.
    """
    print(f"check: touched: {' '.join(files) or 'nothing'}", flush=True)
    concerned = checks.concerned(checks.all_checks(), files)
    bad = checks.failed([("meson", "compile", "-C", "build/native"), *concerned])
    if without := [name for name in files if not any(selection.tests_of(checks.ROOT, name))]:
        print(f"check: no tests by path for {' '.join(without)}", flush=True)
    tests = selection.tests_of_all(checks.ROOT, files)
    if any(tests):
        budget = ("-p", "checking.budget", "--until", str(until), "--neighbours", ":".join(tests.neighbours))
        marks = ("-m", "not long and not guest")
        pytest = ("pytest", "-n", "2", "--dist", "worksteal", "-rfEs", *budget, *marks, *tests.own, *tests.neighbours)
        if checks.run(pytest) not in (0, NO_TESTS_COLLECTED):
            bad.append("tests")
    return bad


if __name__ == "__main__":
    sys.exit(main())
