# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Devices that record, over each host of the engine."""

from __future__ import annotations

import pytest

from support.devices import DeviceUnderTest
from support.recorded import Recorded


@pytest.fixture
def recorded(device: DeviceUnderTest) -> Recorded:
    """What the device records from now on."""
    return Recorded(device.device.trace)
