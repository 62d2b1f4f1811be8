# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The security module, from the key store up to the module of a function that the queues see."""

from ihsm_device.hsm.device import HsmDevice
from ihsm_device.hsm.module import SecurityModule

HsmDevice.open_function = SecurityModule.open
