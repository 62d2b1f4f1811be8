# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Running tools and telling the user about it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bootstrap.layout import cache_root

TAIL_LINES = 25


class SetupError(Exception):
    """Set-up cannot go on; the message says why and how to mend it."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        """`exit_code`: what set-up exits with; 77 where only root is missing."""
        super().__init__(message)
        self.exit_code = exit_code


def say(text: str) -> None:
    """One line of progress."""
    print(f"setup: {text}", flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a step and how long it took."""
    say(f"{what} …")
    start = time.monotonic()
    yield
    say(f"{what}: done in {time.monotonic() - start:.1f} s")


def run(
    argv: Sequence[str | os.PathLike[str]], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Run a tool with its output in the set-up log; on failure show the end of it and raise SetupError."""
    log = cache_root() / "setup.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [os.fspath(word) for word in argv]
    with log.open("ab") as out:
        out.write(f"\n$ {' '.join(words)}\n".encode())
        out.flush()
        start = out.tell()
        try:
            done = subprocess.run(
                words,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except FileNotFoundError:
            raise SetupError(f"{words[0]}: not found") from None
    if done.returncode != 0:
        with log.open("rb") as text:
            text.seek(start)
            lines = text.read().decode(errors="replace").splitlines()
        sys.stderr.write("".join(f"  | {line}\n" for line in lines[-TAIL_LINES:]))
        raise SetupError(f"'{' '.join(words[:6])}' failed with status {done.returncode} (everything: {log})")


def output(argv: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None, check: bool = True) -> str:
    """Standard output of a tool; SetupError with its error output when it fails and `check` is set."""
    done = subprocess.run(
        argv, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise SetupError(
            f"'{' '.join(os.fspath(word) for word in argv)}' failed: {done.stderr.strip() or done.returncode}"
        )
    return done.stdout
