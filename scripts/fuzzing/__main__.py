# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Run harnesses one after the other, each for MINUTES, and say what they found."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bootstrap.layout import CHECKOUT
from bootstrap.process import SetupError
from fuzzing.tools import LONGEST_INPUT_BYTES, OUT, WORK, build_native, corpus_of, provide_atheris

LONGEST_INPUT_S: Final = 30
"""An input that takes longer is a finding."""
MEMORY_MIB: Final = 4096
MEMORY: Final = Path("/dev/shm")
"""Where the harnesses' files are, if there is such a place: nothing waits for a disk."""
LAST_LINES: Final = 40
_FACTS: Final = {
    "executions": re.compile(r"^stat::number_of_executed_units:\s*(\d+)", re.M),
    "a second": re.compile(r"^stat::average_exec_per_sec:\s*(\d+)", re.M),
}
_COVERED: Final = re.compile(r"\bcov: (\d+)")
_FINDING: Final = re.compile(r"Test unit written to (\S+)")


@dataclass(frozen=True, slots=True)
class Harness:
    """A program of the fuzzer's."""

    name: str
    subject: str
    command: tuple[str, ...]
    is_native: bool


def harnesses(root: Path = CHECKOUT) -> dict[str, Harness]:
    """All of fuzz/, by name; what each is about stands first in its file."""
    found = [
        *(Harness(path.stem, _subject(path), (str(OUT / f"fuzz_{path.stem}"),), is_native=True)
          for path in sorted((root / "fuzz" / "native").glob("*.c"))),
        *(Harness(path.stem, _subject(path), (sys.executable, str(path)), is_native=False)
          for path in sorted((root / "fuzz" / "python").glob("*.py")) if path.stem != "harness"),
    ]  # fmt: skip
    return {harness.name: harness for harness in found}


def _subject(path: Path) -> str:
    lines = [line.strip(' */"') for line in path.read_text().splitlines()]
    return next(line for line in lines if line and not line.startswith(("SPDX", "# SPDX"))).split(":")[0].split(".")[0]


def main(arguments: Sequence[str]) -> int:
    """0 if nothing was found, 1 if something was, 77 where only root is missing."""
    known = harnesses()
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument(
        "minutes", type=float, nargs="?", metavar="MINUTES", help="of each harness; 0: the corpora once"
    )
    parser.add_argument("names", nargs="*", metavar="HARNESS", help="harnesses to run; all without any")
    parser.add_argument("--list", action="store_true", help="show the harnesses and run none")
    options = parser.parse_args(arguments)
    if options.list:
        for harness in known.values():
            print(f"{harness.name}: {harness.subject}")
        return 0
    if options.minutes is None or not 0 <= options.minutes < 1e6:
        parser.error("MINUTES: how long each harness runs, 0 or more")
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no such harness: {' '.join(unknown)}; there are {' '.join(known)}")
    chosen = [known[name] for name in options.names] or list(known.values())
    try:
        native = build_native() if any(harness.is_native for harness in chosen) else {}
        python = provide_atheris() if not all(harness.is_native for harness in chosen) else {}
    except SetupError as error:
        print(f"fuzz: {error}", file=sys.stderr)
        return error.exit_code
    found = [not run(harness, options.minutes, native if harness.is_native else python) for harness in chosen]
    print(f"{len(chosen)} harnesses, {sum(found)} with a finding")
    return 1 if any(found) else 0


def run(harness: Harness, minutes: float, environment: Mapping[str, str]) -> bool:
    """Run a harness and print a line for it; False: it has found something, and where is printed too."""
    findings = WORK / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    log = WORK / f"{harness.name}.log"
    # Whole seconds; the fuzzer takes 0 for no limit.
    limit = f"-max_total_time={max(1, round(minutes * 60))}" if minutes > 0 else "-runs=0"
    command = [
        *harness.command, limit, f"-timeout={LONGEST_INPUT_S}", f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={LONGEST_INPUT_BYTES}", f"-artifact_prefix={findings}/{harness.name}-", "-print_final_stats=1",
        *map(str, corpus_of(harness.name)),
    ]  # fmt: skip
    memory = str(MEMORY) if MEMORY.is_dir() else None
    with log.open("wb") as out, tempfile.TemporaryDirectory(prefix="ihsm-fuzz-", dir=memory) as scratch:
        done = subprocess.run(
            command, env={**os.environ, **environment, "TMPDIR": scratch}, cwd=WORK, stdin=subprocess.DEVNULL,
            stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    text = log.read_text(errors="replace")
    facts = {name: match[1] for name, pattern in _FACTS.items() if (match := pattern.search(text))}
    covered = _COVERED.findall(text)
    print(
        f"{harness.name}: {facts.get('executions', '?')} executions, {facts.get('a second', '?')} a second, "
        f"coverage {covered[-1] if covered else '?'}",
        flush=True,
    )
    if done.returncode == 0:
        return True
    written = _FINDING.findall(text)
    if written and "-timeout-" in written[-1] and _passes(harness, written[-1], environment):
        print(f"{harness.name}: ended early: {written[-1]} took long, as if the machine had stood still, and no more")
        return True
    print("".join(f"  | {line}\n" for line in text.splitlines()[-LAST_LINES:]), end="")
    if written:
        words = shlex.join([*(f"{name}={value}" for name, value in environment.items()), *harness.command, written[-1]])
        print(f"FOUND {harness.name}: {written[-1]}\n  again: {words}", flush=True)
    else:
        print(f"FAILED {harness.name}: status {done.returncode}, see {log}", flush=True)
    return False


def _passes(harness: Harness, path: str, environment: Mapping[str, str]) -> bool:
    """Whether a harness takes this input now."""
    command = [*harness.command, f"-timeout={LONGEST_INPUT_S}", path]
    return subprocess.run(command, env={**os.environ, **environment}, cwd=WORK, capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
