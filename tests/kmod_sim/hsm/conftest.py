# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a server for all tests of the driver model's core, and the driver on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm.bus import VfioUserFunction
from support.bent_function import BentFunction
from support.hsm_driver import Driver, driver_on
from support.ioctls import Caller, Script, hsm_cqe
from support.process import ServeProcess, serve
from support.waiting import HANG_S


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """One function with one resource: a queue pair for the HSM, two for AES."""
    with serve("--socket", str(tmp_path_factory.mktemp("hsm") / "s")) as server:
        yield server


@pytest.fixture
def function(server: ServeProcess) -> Iterator[BentFunction]:
    """The server's function; a new client finds it after a reset."""
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function:
        yield BentFunction(function)


@pytest.fixture
def driver(function: BentFunction) -> Iterator[Driver]:
    """The driver, bound; it has done nothing that a kernel would complain of when the test is over."""
    with driver_on(function) as driver:
        assert driver.probe_error == 0, driver.machine.kernel.dmesg()
        yield driver
    assert [str(report) for report in driver.reports] == []


@pytest.fixture(scope="module")
def shared_driver(server: ServeProcess) -> Iterator[Driver]:
    """The driver for all ioctls of a module that send the device nothing, or nothing that lasts."""
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function, driver_on(function, log_mask=0xF) as driver:
        yield driver


@pytest.fixture
def hsm_caller(shared_driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Caller]:
    """A program with the node open and no session, and what the device answers it in the test's hands."""
    script = Script()
    monkeypatch.setattr(shared_driver.controller, "execute", script)
    shared_driver.reports.clear()
    process = shared_driver.machine.process()
    caller = Caller(process, "/dev/azihsm0", shared_driver.controller, script)
    yield caller
    script.complete(hsm_cqe())
    process.exit()
