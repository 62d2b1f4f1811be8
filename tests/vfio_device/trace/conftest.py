# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Devices that record, over each host of the engine."""

from __future__ import annotations

import pytest

from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from support.devices import DeviceUnderTest
from support.polled import PolledDriver
from support.recorded import Recorded
from support.shown import QUEUES, Sender


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
def recorded(device: DeviceUnderTest) -> Recorded:
    """What the device records from now on."""
    return Recorded(device.device.trace)
