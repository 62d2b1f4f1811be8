# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Runs of pytest in a folder of their own, with the fixtures that ihsm brings along."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Final

import pytest

OPTIONS: Final = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:hypothesispytest", "-rA")

BROUGHT_UP: Final = """
from ihsm.bus import VfioUserFunction
from ihsm.driver import Controller

def brought_up(device):
    return Controller(VfioUserFunction(device.socket_path))
"""


def run(pytester: pytest.Pytester, source: str, *options: str | Path, timeout: float | None = None) -> pytest.RunResult:
    """Run tests of that source in a process of their own, which may take `timeout` seconds.

    What it prints is the same everywhere: where variables tell of CI, pytest repeats whole messages in its summary.
    """
    pytester.makepyfile(helpers=BROUGHT_UP, test_it=dedent(source))
    with pytest.MonkeyPatch.context() as environment:
        for name in ("CI", "BUILD_NUMBER"):
            environment.delenv(name, raising=False)
        return pytester.runpytest_subprocess(*OPTIONS, *options, timeout=timeout)
