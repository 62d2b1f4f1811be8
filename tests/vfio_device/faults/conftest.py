# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Devices that are told to show faults, over each host of the engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm_abi.resources import ADMIN_QUEUE_ID
from support.devices import DeviceUnderTest
from support.interrupts import ANY, Interrupts
from support.polled import PolledDriver
from support.shown import QUEUES, Sender, Shown


@pytest.fixture
def shown(device: DeviceUnderTest) -> Shown:
    """The faults of the device, of which there are none yet."""
    return Shown.of(device)


@pytest.fixture(params=[queue for queue in QUEUES if queue != ADMIN_QUEUE_ID], ids=["hsm", "aes"])
def io_sender(request: pytest.FixtureRequest, ready: PolledDriver) -> Sender:
    """Commands of queues that can be deleted."""
    return Sender(ready, request.param)


@pytest.fixture
def interrupts(ready: PolledDriver, device: DeviceUnderTest) -> Iterator[Interrupts]:
    """What the driver is told from now on; nothing of the commands before, whose completions it may have seen first."""
    interrupts = Interrupts(ready)
    engine = device.device.engine
    engine.queue(ADMIN_QUEUE_ID)  # waits for who still holds the ring
    with engine.function_mutex():  # what is asked for is delivered when it is let go
        pass
    for vector in ANY:
        interrupts.forget(vector)
    yield interrupts
    interrupts.close()
