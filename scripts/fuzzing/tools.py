# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What fuzzing needs beyond set-up, fetched and built when it is first asked for."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Final

from bootstrap import apt
from bootstrap.layout import CHECKOUT, cache_root, locked, published
from bootstrap.process import SetupError, run, step
from bootstrap.python_env import pip

REQUIREMENTS: Final = CHECKOUT / "requirements" / "fuzz.txt"
WORK: Final = CHECKOUT / "build" / "fuzz"
OUT: Final = WORK / "out"
LONGEST_INPUT_BYTES: Final = 4096
CLANG: Final = {"bookworm": "16", "trixie": "19"}
"""The version of each Debian release that is taken."""
SANITIZERS: Final = (
    "-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -g -fno-omit-frame-pointer"
)


def provide_clang() -> str:
    """Have Debian's clang with what a fuzzer and coverage need; its command.

    Raises:
        SetupError: it cannot be had.
    """
    version = CLANG.get(apt.suite())
    if version is None:
        raise SetupError(f"Debian {apt.suite()}: no version of clang is known for it")
    packages = [f"clang-{version}", f"libclang-rt-{version}-dev", f"llvm-{version}"]
    if shutil.which(packages[0]) is None or apt.missing(packages):
        with step(f"compiler with a fuzzer: installing {' '.join(packages)}"):
            apt.install(packages)
    return packages[0]


def build_native() -> dict[str, str]:
    """Bring the harnesses in C up to date; what their environment has in addition.

    Raises:
        SetupError: the compiler cannot be had, or the build fails.
    """
    with locked(WORK / "build.lock"):
        compiler = provide_clang()
        environment = {
            "CC": compiler, "CFLAGS": SANITIZERS, "LIB_FUZZING_ENGINE": "-fsanitize=fuzzer", "OUT": str(OUT),
            "WORK": str(WORK),
        }  # fmt: skip
        with step("harnesses: building what changed"):
            run([CHECKOUT / "fuzz" / "build.sh"], env=environment)
    # A file that a client cuts is our own handler's affair.
    symbolizer = f"/usr/bin/llvm-symbolizer-{CLANG[apt.suite()]}"
    return {"ASAN_OPTIONS": "handle_sigbus=0", "ASAN_SYMBOLIZER_PATH": symbolizer}


def provide_atheris() -> dict[str, str]:
    """Have the fuzzer for Python in the cache, checked by hash; what the harnesses' environment has in addition.

    Raises:
        SetupError: it cannot be had.
    """
    release = REQUIREMENTS.read_text().split("atheris==")[1].split()[0]
    place = cache_root() / "atheris" / f"{release}-{sys.implementation.cache_tag}"
    with locked(cache_root() / "atheris.lock"):
        if not place.exists():
            with step("fuzzer for Python"), published(place) as staging:
                run([*pip(CHECKOUT / ".venv"), "install", "--require-hashes", "--only-binary", ":all:", "--no-deps",
                     "--target", staging, "-r", REQUIREMENTS])  # fmt: skip
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(place), os.environ.get("PYTHONPATH")]))}


def corpus_of(name: str) -> list[Path]:
    """Folders with the inputs of a harness: what runs have found here, which is kept, and the repository's."""
    found = WORK / "corpus" / name
    found.mkdir(parents=True, exist_ok=True)
    return [found, CHECKOUT / "fuzz" / "corpus" / name]
