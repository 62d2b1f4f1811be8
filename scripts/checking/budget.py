# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A pytest plug-in for `scripts/check`: own tests of the touched files always run, others while there is time.

How many of them did is written to a file, because pytest's exit status tells a run of nothing but skipped tests from no
other success.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final, NamedTuple

import pytest

BEGUN: Final = pytest.StashKey[float]()
"""When a process had collected the tests: on a busy machine starting alone can take as long as testing may."""
LEFT_OUT: Final = ("left out", True)
"""Property of a test for which there was no time."""


class Tally(NamedTuple):
    """What became of the tests that were selected."""

    selected: int = 0
    ran: int = 0
    left_out: int = 0

    @classmethod
    def read(cls, path: Path) -> Tally:
        """What a run wrote; nothing selected if it ended before it could."""
        return cls(*json.loads(path.read_text())) if path.exists() else cls()


class _Counter:
    """Counts the reports that arrive where the workers are started."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._selected: set[str] = set()
        self._ran: set[str] = set()
        self._left_out: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._selected.add(report.nodeid)
        # A test that fails as expected has run, though its report says skipped.
        if report.failed or (report.when == "call" and (report.passed or hasattr(report, "wasxfail"))):
            self._ran.add(report.nodeid)
        # JSON between the processes makes lists of tuples.
        if any(tuple(one) == LEFT_OUT for one in report.user_properties):
            self._left_out.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        counts = Tally(len(self._selected), len(self._ran), len(self._left_out))
        self._path.write_text(json.dumps(counts))


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options; workers get them as well."""
    group = parser.getgroup("budget")
    group.addoption("--own", metavar="FILES", default="", help="test files that always run, with : between")
    group.addoption("--others-for", type=float, default=float("inf"), help="seconds in which others may begin")
    group.addoption("--tally", type=Path, metavar="FILE", help="where to write how many tests ran")


def pytest_configure(config: pytest.Config) -> None:
    """Count in one process alone."""
    if config.getoption("--tally") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Counter(config.getoption("--tally")))


def pytest_collection_finish(session: pytest.Session) -> None:
    """From here on time counts."""
    session.config.stash[BEGUN] = time.monotonic()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture is made, so that what is left out costs nothing."""
    if time.monotonic() - item.config.stash[BEGUN] >= item.config.getoption("--others-for"):
        root = item.config.rootpath
        if item.path not in {Path(root, name) for name in item.config.getoption("--own").split(":")}:
            item.user_properties.append(LEFT_OUT)
            pytest.skip("a neighbour's test, and no time left: scripts/test runs it")
