# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm kmod run`, as whoever one likes: programs that see the driver model's /dev and /sys."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from support.stores import NOBODY

KMOD_RUN: Final = (sys.executable, "-P", "-m", "ihsm", "kmod", "run")
FORBIDDING: Final = (sys.executable, str(Path(__file__).parents[1] / "programs" / "forbidding.py"))
"""Before names of groups of system calls, and a command that may not make them."""
_BECOME_NOBODY: Final = (
    "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all",
)  # fmt: skip
UNPRIVILEGED: Final = _BECOME_NOBODY if os.geteuid() == 0 else ()
"""Before a command: it runs as a user who may do nothing special, who runs the tests if root does not."""


def kmod_run(
    *words: str | Path,
    before: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end with these options and program; `before` is put in front, `options` are of subprocess.run."""
    return subprocess.run(
        [*before, *KMOD_RUN, *map(os.fspath, words)],
        env=os.environ | dict(environment or {}),
        text=True,
        capture_output=True,
        check=False,
        **({"stdin": subprocess.DEVNULL} | options if "input" not in options else options),
    )


def printed(*words: str | Path, **options: Any) -> list[str]:
    """Lines that a program prints which ends well."""
    done = kmod_run(*words, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()
