# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What all functions of one server process share: the device, its state directory, its stock of keys."""

from ihsm_device.errors import StateError
from ihsm_device.hsm.device.device import DeviceOptions, HsmDevice
from ihsm_device.hsm.device.records import PartitionRecord, RecordFile

__all__ = [
    "DeviceOptions",
    "HsmDevice",
    "PartitionRecord",
    "RecordFile",
    "StateError",
]
