# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A failure is shown in full when it happens: a long run may be watched, or cut off before pytest's own summary."""

from __future__ import annotations

import pytest


class ShowFailuresAtOnce:
    """Writes the report of a failed phase of a test behind the line that names the test."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        """`terminal`: where pytest writes; with several workers, that of the process that collects from them."""
        self._terminal = terminal

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for each phase of each test, in the order in which they end."""
        if report.failed:
            self._terminal.write_sep("_", report.nodeid, red=True)
            self._terminal.write_line(report.longreprtext)
            for title, text in report.sections:
                self._terminal.write_sep("-", title)
                self._terminal.write_line(text)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """A worker has no terminal; its reports come to the process that has one."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        config.pluginmanager.register(ShowFailuresAtOnce(terminal))
