# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a device to put published vectors through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from support.hsm import Scene
from support.vectors import VectorBench


@pytest.fixture(scope="module")
def bench() -> Iterator[VectorBench]:
    """A session of a physical device with validation hooks."""
    with HsmDevice(DeviceOptions(validation_hooks=True)) as device:
        yield VectorBench(Scene(device.function()))
