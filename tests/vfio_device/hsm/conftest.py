# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a device of each kind, without queues."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm_abi.ddi import DeviceKind
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from support.hsm import Scene, Stage

KINDS = (DeviceKind.Virtual, DeviceKind.Physical)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name.lower())
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Scenes of a device with the default profile; every test that uses it runs with both kinds."""
    with HsmDevice(DeviceOptions(kind=request.param)) as device:
        yield Stage(device)


@pytest.fixture
def scene(stage: Stage) -> Scene:
    """A partition in the state Fresh."""
    return stage.clean()
