# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The PCI function: identity, BARs, MSI-X layout, capability ids (spec 01 §1, §14.6, §14.9)."""

from enum import IntEnum
from typing import Final

VENDOR_ID: Final = 0x1414
DEVICE_ID: Final = 0xC003
SUBSYSTEM_VENDOR_ID: Final = 0x1414
SUBSYSTEM_ID: Final = 0xC003
CLASS_CODE: Final = 0x108000
"""Base class 0x10, sub-class 0x80: encryption controller, other."""
REVISION_ID: Final = 0x01

PAGE_BYTES: Final = 4096
BAR_BYTES: Final = PAGE_BYTES


class Bar(IntEnum):
    """Index of each 64-bit memory BAR; the odd indexes are upper halves."""

    REGISTERS = 0
    DOORBELLS = 2
    MSIX = 4


MSIX_VECTORS: Final = 32
MSIX_TABLE_OFFSET: Final = 0x000
MSIX_PBA_OFFSET: Final = 0x800
MSIX_ENTRY_BYTES: Final = 16

ADMIN_VECTOR: Final = 0
HSM_VECTORS: Final = range(1, 16)
AES_VECTORS: Final = range(16, 32)


class Capability(IntEnum):
    """PCI capability ids the function presents."""

    POWER_MANAGEMENT = 0x01
    MSIX = 0x11
    PCI_EXPRESS = 0x10


class ExtendedCapability(IntEnum):
    """PCI Express extended capability ids the function presents."""

    DEVICE_SERIAL_NUMBER = 0x0003
    DATA_OBJECT_EXCHANGE = 0x002E
    INTEGRITY_AND_DATA_ENCRYPTION = 0x0030
