# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which conditions of the tables in `tests/data` were tested: a row counts if a test that covers it ran and passed.

A test names the rows it covers through the `covers` fixture. Those of `ddi-conditions.json` are "Operation/row" (rows
that apply to several operations with scope `operation`: "Operation/row" for each; scope `message`: "any/row"; queue
entry: "completion/row"; fast path: "gcm/row", "xts/row"), those of `kmod-conditions.json` "kmod/section/row". What a
device can be told to do wrong are rows as well, "fault/action", for tests that see it from the driver's side. With
`--conditions` the run ends with the list of rows without a test, and fails if there is one; `--conditions-of` looks at
a part of the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from ihsm_abi.fault_table import ACTIONS

DATA: Final = Path(__file__).parents[1] / "data"
TABLE: Final[dict[str, Any]] = json.loads((DATA / "ddi-conditions.json").read_text())
KMOD_TABLE: Final[dict[str, Any]] = json.loads((DATA / "kmod-conditions.json").read_text())
PROPERTY: Final = "condition"
ANY: Final = "any"
COMPLETION: Final = "completion"
KMOD: Final = "kmod"
FAULT: Final = "fault"
DRIVER_SIDE: Final = ("tests/kmod_sim/", "tests/vfio_device/faults/")
"""Where tests have a driver that meets what the device does."""


@dataclass(frozen=True)
class Row:
    """One condition of one operation, or of one section of the Linux driver's interface."""

    operation: str
    id: str
    order: int
    status: str
    """DDI status, or `sc` of the completion, or sts/err of the fast path, or what an ioctl answers, or a fault does."""
    kinds: tuple[str, ...]
    """Device kinds in which the condition exists; empty: every kind."""
    reachable: bool

    @property
    def name(self) -> str:
        """How a test refers to the row."""
        return f"{self.operation}/{self.id}"


def _row(operation: str, entry: dict[str, Any]) -> Row:
    status = str(entry.get("status") or entry.get("sc") or f"{entry.get('sts')}/{entry.get('err')}")
    kinds = tuple(entry.get("kinds", ()))
    return Row(operation, entry["id"], entry["order"], status, kinds, entry["reachable"])


def rows() -> Iterator[Row]:
    """Every row of the tables, once per operation it must be tested with."""
    for entry in TABLE["common"]:
        per_operation = entry["scope"] == "operation"
        for operation in entry["ops"] if per_operation else [ANY]:
            yield _row(operation, entry)
    for operation, entries in (TABLE["operations"] | TABLE["fast_path"]).items():
        for entry in entries:
            yield _row(operation, entry)
    for entry in TABLE["completion_errors"]:
        yield _row(COMPLETION, entry)
    for section, entries in KMOD_TABLE["sections"].items():
        for entry in entries:
            yield _row(f"{KMOD}/{section}", entry)
    for action, spec in ACTIONS.items():
        yield Row(FAULT, action, 0, spec.meaning, (), reachable=True)


def rows_of(operation: str, kind: str | None = None) -> list[Row]:
    """Rows of one operation, by the order of their checks; `kind` leaves out those of the other kind."""
    found = [row for row in rows() if row.operation == operation and (kind is None or kind in (row.kinds or (kind,)))]
    return sorted(found, key=lambda row: row.order)


_NAMES: Final = frozenset(row.name for row in rows())


@pytest.fixture
def covers(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Name the rows that the running test covers; it counts once the test has passed."""

    def note(*names: str) -> None:
        for name in names:
            assert name in _NAMES, f"{name} is no row of the tables of conditions"
            is_fault = name.startswith(f"{FAULT}/")
            assert not is_fault or request.node.nodeid.startswith(DRIVER_SIDE), f"{name} is for a driver's tests"
            request.node.user_properties.append((PROPERTY, name))

    return note


class Coverage:
    """Collects what passed tests covered; with xdist, in the controlling process."""

    def __init__(self, prefix: str) -> None:
        self.required = [row for row in rows() if row.reachable and row.name.startswith(prefix)]
        self.covered: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test has passed: its rows count."""
        if report.when == "call" and report.passed:
            self.covered.update(str(value) for name, value in report.user_properties if name == PROPERTY)

    @property
    def holes(self) -> list[Row]:
        """Reachable rows that no passed test covered."""
        return [row for row in self.required if row.name not in self.covered]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A hole fails the run."""
        if self.holes and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List the holes."""
        terminalreporter.section("conditions")
        for row in self.holes:
            terminalreporter.line(f"no passed test: {row.name} ({row.order}, {row.status})")
        tested = len(self.required) - len(self.holes)
        terminalreporter.line(f"{tested} of {len(self.required)} reachable conditions tested")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer `--conditions` and `--conditions-of`."""
    parser.addoption("--conditions", action="store_true", help="list conditions without a passed test, fail on one")
    parser.addoption("--conditions-of", metavar="PREFIX", help="the same for those whose name begins so: kmod/A.6")


def pytest_configure(config: pytest.Config) -> None:
    """Collect coverage where the reports arrive."""
    prefix = config.getoption("--conditions-of")
    if (config.getoption("--conditions") or prefix) and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Coverage(prefix or ""), "condition-coverage")
