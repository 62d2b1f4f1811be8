# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a device that can be told to do something wrong, and the driver on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.flow import Flow, flow_on
from support.hsm_driver import Driver
from support.process import ServeProcess, serve


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """One function with one resource: a queue pair for the HSM, two for AES."""
    with serve("--socket", str(tmp_path_factory.mktemp("flows") / "s")) as server:
        yield server


@pytest.fixture
def flow(server: ServeProcess) -> Iterator[Flow]:
    """The driver, bound; it has done nothing that a kernel would complain of when the test is over."""
    with flow_on(server) as flow:
        yield flow
    assert [str(report) for report in flow.driver.reports] == []


@pytest.fixture
def warned(flow: Flow) -> Driver:
    """The driver, which logs its warnings too."""
    flow.driver.machine.kernel.vfs.write_text("/sys/module/azihsm/parameters/log_mask", "3")
    return flow.driver
