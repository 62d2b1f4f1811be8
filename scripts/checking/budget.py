# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A pytest plug-in for `scripts/check`: tests of a file's neighbours run while there is time, its own always."""

import time
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options; workers get them as well."""
    group = parser.getgroup("budget")
    group.addoption("--neighbours", metavar="FILES", default="", help="test files that may be left out, with : between")
    group.addoption("--until", type=float, default=float("inf"), help="when to leave them out, as time.monotonic()")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before any fixture is made, so that what is left out costs nothing."""
    if time.monotonic() > item.config.getoption("--until"):
        root = item.config.rootpath
        if item.path in {Path(root, name) for name in item.config.getoption("--neighbours").split(":")}:
            pytest.skip("a neighbour's test, and no time left: scripts/test runs it")
