# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What tests of the driver have in common: those that want it give `device` and `options`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm.driver import Controller, DriverOptions, completion
from support.devices import DeviceUnderTest
from support.waiting import HANG_S


@pytest.fixture
def controller(device: DeviceUnderTest, options: DriverOptions) -> Iterator[Controller]:
    with Controller(device.function, options) as controller:
        yield controller


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look at a quiet device, which takes completions as well, rescues nobody here."""
    monkeypatch.setattr(completion, "HEALTH_INTERVAL_S", 10 * HANG_S)
