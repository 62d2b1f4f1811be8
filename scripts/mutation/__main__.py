# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Apply each mutant, run the tests that it names, print a line for each and a summary."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bootstrap.layout import CHECKOUT, locked
from mutation.patches import Mutant, PatchError, chosen, load, missing_tests
from mutation.scratch import BuildError, ScratchTree, default_place
from mutation.verdicts import Outcome, judge


def main(arguments: Sequence[str], root: Path = CHECKOUT, place: Path | None = None) -> int:
    """0 if every chosen mutant is noticed by every test it names, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="scripts/mutants", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to run; all without any")
    parser.add_argument("--list", action="store_true", help="show the mutants and run none")
    options = parser.parse_args(arguments)
    try:
        mutants = chosen(load(root), options.names)
    except PatchError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 1
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name}: {mutant.sentence}\n    {' '.join(mutant.tests)}")
        return 0
    place = place or default_place(root)
    with locked(place.with_suffix(".lock")):
        return run(mutants, ScratchTree(root, place))


def run(mutants: Sequence[Mutant], tree: ScratchTree) -> int:
    """Judge mutants in a tree; as `main`."""
    tree.sync()
    tree.build()
    if missing := [test for mutant in mutants for test in missing_tests(tree.place, mutant)]:
        print(f"mutants: no such test: {' '.join(missing)}", file=sys.stderr)
        return 1
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    print(f"mutants: {len(tests)} tests without any mutant …", flush=True)
    before = judge(tree, tests)
    if before.outcome is not Outcome.PASSED:
        print(f"mutants: these tests must pass without a mutant: {before.outcome.value}: {before.detail}")
        return 1
    noticed = sum(_is_noticed(mutant, tree) for mutant in mutants)
    print(f"{len(mutants)} mutants, {noticed} noticed")
    return 0 if noticed == len(mutants) else 1


def _is_noticed(mutant: Mutant, tree: ScratchTree) -> bool:
    """Judge one mutant and print a line that says it, with the reason for each test."""
    reasons = []
    try:
        with tree.mutated(mutant):
            for test in mutant.tests:
                verdict = judge(tree, [test], mutant.fails_with)
                if verdict.outcome is not Outcome.FAILED:
                    print(f"NOT NOTICED {mutant.name}: {test} {verdict.outcome.value} {verdict.detail}", flush=True)
                    return False
                reasons.append(f"{test}: {verdict.detail}")
    except PatchError as error:
        print(f"NOT APPLIED {error}", flush=True)
        return False
    except BuildError as error:
        print(f"NOT BUILT {mutant.name}: {error}", flush=True)
        return False
    print("\n    ".join([f"noticed {mutant.name}", *reasons]), flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
