# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Ways to reach a PCI function: a vfio-user socket, or the kernel's VFIO."""

from ihsm_abi.lazy_names import loader

_HOMES = {
    "DmaArena": "arena",
    "DmaBuffer": "arena",
    "Mailbox": "doe",
    "PciFunction": "function",
    "SysfsConfig": "sysfs_config",
    "VfioUserFunction": "vfio_user",
}
"""Module of each name, loaded when used."""

__all__ = sorted(_HOMES)
__getattr__ = loader(__name__, _HOMES)
