# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The device behind the node of a kernel's driver, /dev/azihsm0: HSM and AES commands are ioctls (spec 02 A)."""

from ihsm.chardev.device import NodeDevice
from ihsm.chardev.information import NodeInformation
from ihsm.chardev.node_file import SYSTEM, Calls

__all__ = ["SYSTEM", "Calls", "NodeDevice", "NodeInformation"]
