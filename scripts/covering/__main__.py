# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Show which lines of the C code tests and the corpora of the fuzzer reach, and which branches of hsm/ the tests.

Counters of C code lie in a file that each process maps when it loads the module: a process that is killed, or that may
open no file any more, loses none of them. Those of Python code are written when a process ends (started/).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bootstrap import apt
from bootstrap.layout import CHECKOUT, cache_root, locked
from bootstrap.process import SetupError, run, step
from covering.branches import arrows, counting, taken
from covering.lines import merged, ranges
from covering.reached import Reached, share, table
from fuzzing.__main__ import harnesses
from fuzzing.tools import CLANG, LONGEST_INPUT_BYTES, corpus_of, provide_clang
from mutation.scratch import BuildError, ScratchTree

SOURCES: Final = "vfio_device/native/"
WANTED: Final = 95
"""Of 100 lines, and of 100 branches."""
COUNTERS: Final = "-fprofile-instr-generate -fcoverage-mapping -mllvm -runtime-counter-relocation"
MODULE: Final = Path("vfio_device") / "ihsm_device"
SECURITY_MODULE: Final = MODULE / "hsm"


def main(arguments: Sequence[str]) -> int:
    """0 if enough is reached, 1 if not, 77 where only root is missing; tests that fail are shown, and no more."""
    parser = argparse.ArgumentParser(prog="scripts/coverage", description=__doc__)
    _, chosen = parser.parse_known_args(arguments)
    place = cache_root() / "coverage" / hashlib.sha256(os.fsencode(CHECKOUT)).hexdigest()[:12]
    with locked(place.with_suffix(".lock")):
        try:
            return measure(ScratchTree(CHECKOUT, place), chosen)
        except SetupError as error:
            print(f"coverage: {error}", file=sys.stderr)
            return error.exit_code
        except BuildError as error:
            print(f"coverage: {error}", file=sys.stderr)
            return 1


def measure(tree: ScratchTree, tests: Sequence[str]) -> int:
    """As `main`, in a copy of the checkout."""
    version = CLANG[apt.suite()]
    compiler = provide_clang()
    counts = tree.place / "build" / "counts"
    branch_counts = counts / "branches"
    tree.sync()
    before = dict(os.environ)
    os.environ |= {"CC": compiler, "CFLAGS": COUNTERS, "LDFLAGS": "-fprofile-instr-generate"}
    with step("modules with counters: building what changed"):
        tree.build()
        seams = build_seams(tree)
    for name in ("CC", "CFLAGS", "LDFLAGS"):  # tests build with what they like
        os.environ.pop(name)
    os.environ |= before
    shutil.rmtree(counts, ignore_errors=True)
    branch_counts.mkdir(parents=True)
    environment = tree.environment | {"LLVM_PROFILE_FILE": f"{counts}/tests-%m%c.profraw"}
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    environment = counting(environment, tree.place / SECURITY_MODULE, branch_counts)
    subprocess.run(pytest, cwd=tree.place, env=environment)
    modules = (next((tree.place / MODULE).glob("_native.*.so")), seams)
    reports = [report(version, counts, "tests", module) for module in modules]
    for name, binary in build_harnesses(tree, compiler).items():
        subprocess.run(
            [binary, "-runs=0", f"-max_len={LONGEST_INPUT_BYTES}", *map(str, corpus_of(name))],
            env=os.environ | {"LLVM_PROFILE_FILE": f"{counts}/{name}.profraw"}, cwd=counts, capture_output=True,
            check=True,
        )  # fmt: skip
        reports.append(report(version, counts, name, binary))
    lines = merged(reports, tree.place, SOURCES)
    branches = taken(branch_counts, tree.place, tree.place / SECURITY_MODULE)
    print("\n".join([*table(lines, ranges, "lines"), *table(branches, arrows, "branches")]))
    return verdict(lines, branches)


def verdict(lines: Reached[int], branches: Reached[tuple[int, int]]) -> int:
    """Exit status: 0 if enough of both was reached."""
    return 0 if min(share(lines), share(branches)) >= WANTED else 1


def build_seams(tree: ScratchTree) -> Path:
    """The module that the tests with seams use, made before they ask for it; raises BuildError."""
    program = "from support.native_builds import seams_build; print(seams_build())"
    folders = os.pathsep.join([str(tree.place / "tests"), tree.environment["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", program], env=tree.environment | {"PYTHONPATH": folders}, capture_output=True, text=True
    )
    if done.returncode:
        raise BuildError("\n".join(done.stderr.splitlines()[-25:]))
    return Path(done.stdout.strip())


def build_harnesses(tree: ScratchTree, compiler: str) -> dict[str, Path]:
    """The harnesses in C with counters and without sanitizers, by name."""
    out = tree.place / "build" / "harnesses"
    environment = {"CC": compiler, "CFLAGS": f"-fsanitize=fuzzer-no-link {COUNTERS}", "WORK": str(out.parent / "fuzz"),
                   "LIB_FUZZING_ENGINE": "-fsanitize=fuzzer", "OUT": str(out)}  # fmt: skip
    with step("harnesses with counters: building what changed"):
        run([tree.place / "fuzz" / "build.sh"], env=environment)
    return {name: out / f"fuzz_{name}" for name, harness in harnesses(tree.place).items() if harness.is_native}


def report(version: str, counts: Path, name: str, binary: Path) -> str:
    """What was counted in a binary, in lcov's format."""
    whole = counts / f"{name}.profdata"
    run([f"llvm-profdata-{version}", "merge", "-o", whole, *sorted(counts.glob(f"{name}*.profraw"))])
    command = [f"llvm-cov-{version}", "export", "-format=lcov", f"-instr-profile={whole}", str(binary)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
