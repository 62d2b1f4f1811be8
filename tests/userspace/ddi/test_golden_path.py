# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The golden path over a vfio-user socket, every value computed independently."""

from __future__ import annotations

from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.driver import Controller
from ihsm.embedded import EmbeddedDevice
from ihsm_abi.ddi import DeviceKind
from support import golden_path


@pytest.mark.parametrize("kind", [DeviceKind.Virtual, DeviceKind.Physical], ids=lambda kind: kind.name)
def test_the_golden_path_over_a_socket(tmp_path: Path, kind: DeviceKind) -> None:
    state = tmp_path / "state"
    with EmbeddedDevice(["--kind", kind.name.lower(), "--state", str(state)]) as device:
        with Controller(VfioUserFunction(device.socket_path)) as controller:
            records = golden_path.walk(controller, lambda: controller.reset(subsystem=True))
        golden_path.check(records, kind, state)
