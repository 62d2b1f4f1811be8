# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Install the current versions of the libraries, run tests/libraries on them, say which versions these were."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bootstrap.layout import CHECKOUT, cache_root, locked
from bootstrap.process import SetupError
from library_tests import environment, table

TESTS: Final = "tests/libraries"


def main(arguments: Sequence[str]) -> int:
    """Exit status of pytest; 1 or 77 as `scripts/setup` if the libraries cannot be had."""
    parser = argparse.ArgumentParser(prog="scripts/test-libraries", description=__doc__)
    parser.add_argument("--record", action="store_true", help=f"write the versions into {table.PAGE.name} if all pass")
    options, rest = parser.parse_known_args(arguments)
    if options.record and rest:
        parser.error("--record is for a run of all tests, without arguments for pytest")
    venv = cache_root() / "test-libraries"
    with locked(venv.with_suffix(".lock")):
        try:
            environment.provide_judges()
            environment.provide_libraries(venv)
            names = environment.library_names(environment.REQUIREMENTS.read_text())
            versions = environment.versions(venv, names)
            held_back = environment.held_back(venv, names)
        except SetupError as error:
            print(f"test-libraries: {error}", file=sys.stderr)
            return error.exit_code
        command: list[str | Path] = [venv / "bin/python", "-P", "-m", "pytest", "-v", "-o", f"testpaths={TESTS}", *rest]
        status = subprocess.run(command, cwd=CHECKOUT, check=False).returncode
    tried = table.recorded(table.PAGE.read_text())
    for name, version in versions.items():
        notes = [f"{held_back[name]} is out, another library holds it back"] if name in held_back else []
        if version != tried.get(table.canonical(name)):
            notes.append(f"{table.PAGE.name} has {tried.get(table.canonical(name))}")
        print(f"test-libraries: {name} {version}{''.join(f'; {note}' for note in notes)}")
    if options.record and status == 0:
        table.PAGE.write_text(table.with_versions(table.PAGE.read_text(), versions))
        print(f"test-libraries: versions written to {table.PAGE.name}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
