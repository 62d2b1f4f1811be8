# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The fixture `ihsm_kmod` for pytest: the driver model on the device of `ihsm_device` (docs/driver-tests.md).

Pytest loads this module by itself wherever ihsm is installed, so it imports nothing before the fixture is used.
`-p no:ihsm_kmod` leaves it out; without the plugin `ihsm`, whose device it takes, it cannot be used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ihsm.embedded import EmbeddedDevice
    from ihsm_kmod.machine import Machine


def pytest_configure(config: pytest.Config) -> None:
    """The mark of the fixture."""
    config.addinivalue_line("markers", "ihsm_kmod(**values): how the machine of ihsm_kmod is made, as a Machine")


@pytest.fixture
def ihsm_kmod(request: pytest.FixtureRequest, ihsm_device: EmbeddedDevice) -> Iterator[Machine]:
    """A machine whose driver has probed `ihsm_device`; its end unloads the driver.

    `@pytest.mark.ihsm_kmod(dma="strict", quirks={...})` says what machine, with the names of `Machine`.
    """
    from ihsm.bus import VfioUserFunction
    from ihsm_kmod.machine import Machine

    mark = request.node.get_closest_marker("ihsm_kmod")
    with (
        VfioUserFunction(ihsm_device.socket_path) as function,
        Machine(function, **(mark.kwargs if mark else {})) as machine,
    ):
        yield machine
