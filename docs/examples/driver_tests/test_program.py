# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How a program takes it that its device fails: no driver of a kernel, the program has the device's socket."""

from __future__ import annotations

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Partition
from ihsm.driver import Controller
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import HsmCommandError
from ihsm.testing import DeviceFaults


def test_a_status_of_the_device_reaches_the_program(ihsm_device: EmbeddedDevice, ihsm_faults: DeviceFaults) -> None:
    with Controller(VfioUserFunction(ihsm_device.socket_path)) as controller:
        hsm = Partition(controller)
        ihsm_faults.add("wrong-status", queue=1, count=1, status=0x0002)
        with pytest.raises(HsmCommandError):
            hsm.api_revisions()
        assert hsm.api_revisions().max.major == 1


@pytest.mark.parametrize("run", ["first", "second"])
def test_each_test_has_a_device_as_new(ihsm_device: EmbeddedDevice, run: str) -> None:
    with Controller(VfioUserFunction(ihsm_device.socket_path)) as controller:
        assert not Partition(controller).is_provisioned(), run
