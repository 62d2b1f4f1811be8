# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a server, the driver model on its function, a program of the model, and the client in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.chardev import NodeDevice
from ihsm_kmod.kernel.process import Process
from support.hsm_driver import Driver, driver_on
from support.nodes import node_of
from support.process import ServeProcess, serve
from support.waiting import HANG_S


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """The second function is for fixtures that outlast a test."""
    with serve("--socket", str(tmp_path_factory.mktemp("hsm") / "s"), "--count", "2") as server:
        yield server


@pytest.fixture
def driver(server: ServeProcess) -> Iterator[Driver]:
    """The driver with a function as after power-on; the client is no reason for its kernel to complain."""
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function, driver_on(function) as driver:
        assert driver.probe_error == 0, driver.machine.kernel.dmesg()
        yield driver
    assert [str(report) for report in driver.reports] == []


@pytest.fixture
def process(driver: Driver) -> Process:
    return driver.machine.process()


@pytest.fixture
def node(driver: Driver, process: Process) -> Iterator[NodeDevice]:
    with node_of(driver, process) as node:
        yield node
