# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration space of the function: its capabilities (spec 01 §1, §14.9).

The registers in them, and what writes do to those, are `ihsm_abi.pci_config`'s.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ihsm_abi.doe import DOE_BYTES, DOE_VERSION
from ihsm_abi.ide import IDE_BYTES, IDE_VERSION, IdeCapability
from ihsm_abi.pci import (
    MSIX_PBA_OFFSET,
    MSIX_TABLE_OFFSET,
    MSIX_VECTORS,
    Bar,
    Capability,
    ExtendedCapability,
)
from ihsm_abi.pci_config import (
    BarAddress,
    DeviceCapabilities,
    DeviceControl,
    ExpressCapabilities,
    ExtendedHeader,
    LinkCapabilities,
    LinkCapabilities2,
    LinkControl2,
    LinkStatus,
    MsixControl,
    PowerManagementCapabilities,
    PowerManagementControl,
)

POWER_MANAGEMENT_POSITION: Final = 0x40
PCI_EXPRESS_POSITION: Final = 0x70
MSIX_POSITION: Final = 0xB0
SERIAL_NUMBER_POSITION: Final = 0x100
MAILBOX_POSITION: Final = 0x110
IDE_POSITION: Final = 0x130

LINK_SPEED_16GT: Final = 4
LINK_SPEEDS_TO_16GT: Final = 0b1111
LINK_WIDTH: Final = 8
MAX_READ_512: Final = 2
"""Code of 512 bytes, the reset value that the standard asks for."""


@dataclass(frozen=True, slots=True)
class CapabilityBlock:
    """One capability: where it lies in configuration space and its bytes, the link to the next one left 0."""

    position: int
    data: bytes
    extended: bool = False


def power_management() -> CapabilityBlock:
    """No_Soft_Reset keeps the kernel from taking a D3hot cycle, of which nobody tells us, for a reset (spec 01 §1)."""
    data = struct.pack(
        "<BBHHBB",
        Capability.POWER_MANAGEMENT, 0, PowerManagementCapabilities.of(version=3),
        PowerManagementControl.of(no_soft_reset=1), 0, 0,
    )  # fmt: skip
    return CapabilityBlock(POWER_MANAGEMENT_POSITION, data)


def pci_express() -> CapabilityBlock:
    """Endpoint with function level reset, able to have trusted I/O (TDISP)."""
    data = struct.pack(
        "<BBHIHHIHHIHHHHIIHHIHHIHH",
        Capability.PCI_EXPRESS, 0, ExpressCapabilities.of(version=2),
        DeviceCapabilities.of(extended_tag=1, role_based_error_reporting=1, function_level_reset=1, tee_io=1),
        DeviceControl.of(relaxed_ordering=1, no_snoop=1, max_read_request=MAX_READ_512), 0,
        LinkCapabilities.of(max_speed=LINK_SPEED_16GT, max_width=LINK_WIDTH, aspm_optionality=1), 0,
        LinkStatus.of(speed=LINK_SPEED_16GT, width=LINK_WIDTH),
        0, 0, 0, 0, 0, 0,
        0, 0, 0,
        LinkCapabilities2.of(supported_speeds=LINK_SPEEDS_TO_16GT), LinkControl2.of(target_speed=LINK_SPEED_16GT), 0,
        0, 0, 0,
    )  # fmt: skip
    return CapabilityBlock(PCI_EXPRESS_POSITION, data)


def msix(vectors: int) -> CapabilityBlock:
    """Table and pending bits in BAR4, for at least one vector."""
    table = BarAddress.of(bar=Bar.MSIX, offset_units=MSIX_TABLE_OFFSET // 8)
    pba = BarAddress.of(bar=Bar.MSIX, offset_units=MSIX_PBA_OFFSET // 8)
    data = struct.pack("<BBHII", Capability.MSIX, 0, MsixControl.of(last_entry=vectors - 1), table, pba)
    return CapabilityBlock(MSIX_POSITION, data)


def serial_number(serial: int) -> CapabilityBlock:
    """Device serial number: a 64-bit number, never 0."""
    header = ExtendedHeader.of(id=ExtendedCapability.DEVICE_SERIAL_NUMBER, version=1)
    return CapabilityBlock(SERIAL_NUMBER_POSITION, struct.pack("<IQ", header, serial), extended=True)


def mailbox() -> CapabilityBlock:
    """Data object exchange, without interrupts: an answer takes less time than one."""
    header = ExtendedHeader.of(id=ExtendedCapability.DATA_OBJECT_EXCHANGE, version=DOE_VERSION)
    return CapabilityBlock(MAILBOX_POSITION, struct.pack("<I", header).ljust(DOE_BYTES, b"\0"), extended=True)


def ide() -> CapabilityBlock:
    """A link stream and a selective one, with keys by IDE_KM (spec 06 §2.3)."""
    header = ExtendedHeader.of(id=ExtendedCapability.INTEGRITY_AND_DATA_ENCRYPTION, version=IDE_VERSION)
    supported = IdeCapability.of(link_stream=1, selective_streams=1, ide_km=1)
    return CapabilityBlock(IDE_POSITION, struct.pack("<II", header, supported).ljust(IDE_BYTES, b"\0"), extended=True)


def capabilities(serial: int, vectors: int = MSIX_VECTORS) -> tuple[CapabilityBlock, ...]:
    """Every capability that libvfio-user knows, in the order of the linked list; without vectors there is no MSI-X."""
    of_vectors = (msix(vectors),) if vectors else ()
    return power_management(), pci_express(), *of_vectors, serial_number(serial)
