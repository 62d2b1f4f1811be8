# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device as programs without queues use it."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
with HsmDevice(DeviceOptions()) as device:
    modules = [device.function(), device.function(1, 3, bytes(range(16)))]
    print(*(type(module).__name__ for module in modules))
    print([module.partition.index for module in modules], [module.partition.tables for module in modules])
    print(modules[1].partition.kept.launch_guid.hex())
"""


def test_a_device_opens_modules_whatever_was_imported_before() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["SecurityModule SecurityModule", "[0, 1] [1, 3]", bytes(range(16)).hex()]


def test_the_name_under_which_programs_catch_a_damaged_state() -> None:
    from ihsm_device.hsm.device import StateError as raised
    from ihsm_device.hsm.state import StateError as caught

    assert caught is raised
