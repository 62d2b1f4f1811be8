# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a device over each host of the engine, and a polling driver on it; a folder for servers of other users."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from support.devices import HOSTS, DeviceUnderTest, open_device
from support.polled import PolledDriver
from support.shown import QUEUES, Sender


@pytest.fixture(params=HOSTS)
def device(request: pytest.FixtureRequest, socket_folder: Path) -> Iterator[DeviceUnderTest]:
    """A device with the resources that a test's `resources` marker asks for, else 2."""
    marker = request.node.get_closest_marker("resources")
    resources = marker.args[0] if marker else 2
    with open_device(request.param, socket_folder, resources=resources) as under_test:
        yield under_test


@pytest.fixture
def driver(device: DeviceUnderTest) -> Iterator[PolledDriver]:
    """A driver on the device, the controller not yet enabled."""
    driver = PolledDriver(device.function)
    yield driver
    driver.close()


@pytest.fixture
def ready(driver: PolledDriver) -> PolledDriver:
    """A driver with an HSM queue on vector 3 and an AES queue on vector 20."""
    driver.enable()
    driver.create_pair(1, vector=3)
    driver.create_pair(FIRST_AES_QUEUE_ID, vector=20)
    return driver


@pytest.fixture(params=QUEUES, ids=["admin", "hsm", "aes"])
def sender(request: pytest.FixtureRequest, ready: PolledDriver) -> Sender:
    """Commands of each kind of queue."""
    return Sender(ready, request.param)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder like /tmp, for servers that root starts: whoever they become may make files there, and remove them."""
    with tempfile.TemporaryDirectory(prefix="ihsm-") as name:
        os.chmod(name, 0o1777)
        yield Path(name)
