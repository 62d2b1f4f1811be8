# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Names under which the Linux driver shows itself: its own, of nodes and of classes (spec 02 A.1, 01 §10)."""

from typing import Final

DRIVER_NAME: Final = "azihsm"
"""Name of the PCI driver and of the sysfs folder below a function (01 §1, 02 A.2)."""
HSM_NODE_PREFIX: Final = "azihsm"
"""The node of minor 3 is /dev/azihsm3; programs look for /dev/azihsm* (02 F.1)."""
MGMT_NODE_PREFIX: Final = "azihsm-mgmt"
HSM_CLASS: Final = "azihsm-hsm"
"""Class in sysfs, and name of the region of device numbers."""
MGMT_CLASS: Final = "azihsm-mgmt"
