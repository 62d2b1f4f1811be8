# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Registers of PCI configuration space, and what a write does to each (PCI Express Base 7.5; PCI Local Bus 3.0 §6.1).

Bytes that a write does not cover keep their value. Bits that are neither writable nor clearable are read only: writes
to them have no effect and are no error. A function without a feature has the bits that would control it read only, 0.
"""

from dataclasses import dataclass
from typing import Final

from ihsm_abi.bits import Bits, Word
from ihsm_abi.ide import (
    IDE_LINK_CONTROL_OFFSET,
    IDE_LINK_STATUS_OFFSET,
    IDE_REGISTER_BYTES,
    IDE_RID_ASSOCIATION1_OFFSET,
    IDE_RID_ASSOCIATION2_OFFSET,
    IDE_SELECTIVE_CONTROL_OFFSET,
    IDE_SELECTIVE_STATUS_OFFSET,
    IdeLinkControl,
    IdeRidAssociation1,
    IdeRidAssociation2,
    IdeSelectiveControl,
    IdeStreamStatus,
)
from ihsm_abi.pci import Capability, ExtendedCapability

CONFIG_SPACE_BYTES: Final = 4096
COMMAND_OFFSET: Final = 0x04
STATUS_OFFSET: Final = 0x06
CACHE_LINE_SIZE_OFFSET: Final = 0x0C
BARS_OFFSET: Final = 0x10
INTERRUPT_LINE_OFFSET: Final = 0x3C
PMC_OFFSET: Final = 2
PMCSR_OFFSET: Final = 4
DEVICE_CAPABILITIES_OFFSET: Final = 4
DEVICE_CONTROL_OFFSET: Final = 8
DEVICE_STATUS_OFFSET: Final = 0xA
LINK_CONTROL_OFFSET: Final = 0x10
DEVICE_CONTROL2_OFFSET: Final = 0x28
LINK_CONTROL2_OFFSET: Final = 0x30
MSIX_CONTROL_OFFSET: Final = 2

BAR_FLAGS: Final = 0xF
"""Bits of a memory BAR that say what it is and hold no address."""
BAR_64_BITS: Final = 0x4
"""The bit of them that says that the next BAR holds the upper half of the address."""


class CommandRegister(Word):
    """Command register of the standard header; nothing here looks at parity, so that its enable bit does not exist."""

    io_space = Bits(0)
    memory_space = Bits(1)
    bus_master = Bits(2)
    serr_enable = Bits(8)
    interrupt_disable = Bits(10)


class StatusRegister(Word):
    """Status register of the standard header."""

    capabilities_list = Bits(4)
    master_data_parity_error = Bits(8)
    signaled_target_abort = Bits(11)
    received_target_abort = Bits(12)
    received_master_abort = Bits(13)
    signaled_system_error = Bits(14)
    detected_parity_error = Bits(15)


class PowerManagementCapabilities(Word):
    """PMC."""

    version = Bits(0, 3)
    d1_support = Bits(9)
    d2_support = Bits(10)


class PowerManagementControl(Word):
    """PMCSR; no PME, no Data register."""

    power_state = Bits(0, 2)
    no_soft_reset = Bits(3)


class ExpressCapabilities(Word):
    """PCI Express Capabilities register; device type 0 is an endpoint."""

    version = Bits(0, 4)
    device_type = Bits(4, 4)


class DeviceCapabilities(Word):
    """Device Capabilities register."""

    extended_tag = Bits(5)
    role_based_error_reporting = Bits(15)
    function_level_reset = Bits(28)
    tee_io = Bits(30)


class DeviceControl(Word):
    """Device Control register."""

    error_reporting = Bits(0, 4)
    relaxed_ordering = Bits(4)
    max_payload_size = Bits(5, 3)
    extended_tag = Bits(8)
    no_snoop = Bits(11)
    max_read_request = Bits(12, 3)
    initiate_reset = Bits(15)
    """Function level reset; reads 0."""


class DeviceStatus(Word):
    """Device Status register."""

    correctable_error = Bits(0)
    non_fatal_error = Bits(1)
    fatal_error = Bits(2)
    unsupported_request = Bits(3)


class LinkCapabilities(Word):
    """Link Capabilities register."""

    max_speed = Bits(0, 4)
    max_width = Bits(4, 6)
    aspm_optionality = Bits(22)


class LinkControl(Word):
    """Link Control register of an endpoint."""

    aspm = Bits(0, 2)
    read_completion_boundary = Bits(3)
    common_clock = Bits(6)
    extended_synch = Bits(7)
    autonomous_width_disable = Bits(9)


class LinkStatus(Word):
    """Link Status register."""

    speed = Bits(0, 4)
    width = Bits(4, 6)


class DeviceControl2(Word):
    """Device Control 2 register."""

    completion_timeout_disable = Bits(4)
    ido_request = Bits(8)
    ido_completion = Bits(9)


class LinkCapabilities2(Word):
    """Link Capabilities 2 register."""

    supported_speeds = Bits(1, 7)


class LinkControl2(Word):
    """Link Control 2 register of an endpoint."""

    target_speed = Bits(0, 4)
    enter_compliance = Bits(4)
    autonomous_speed_disable = Bits(5)
    transmit_margin = Bits(7, 3)
    enter_modified_compliance = Bits(10)
    compliance_sos = Bits(11)
    compliance_preset = Bits(12, 4)


class MsixControl(Word):
    """Message Control of MSI-X."""

    last_entry = Bits(0, 11)
    function_mask = Bits(14)
    enable = Bits(15)


class BarAddress(Word):
    """Table and PBA location of MSI-X: offset in a BAR, a multiple of 8."""

    bar = Bits(0, 3)
    offset_units = Bits(3, 29)


class ExtendedHeader(Word):
    """Header of an extended capability."""

    id = Bits(0, 16)
    version = Bits(16, 4)
    next = Bits(20, 12)


@dataclass(frozen=True, slots=True)
class ConfigRegister:
    """What writes change in one register."""

    offset: int
    """Bytes, from the start of the header or of its capability."""
    width: int
    """Bytes."""
    writable: int = 0
    """Mask of the bits that take the value written."""
    clearable: int = 0
    """Mask of the bits that a written 1 clears."""


def bar_register(index: int, size_bytes: int, *, bits64: bool) -> ConfigRegister:
    """Memory BAR `index` of `size_bytes`, rounded up to a power of two: address bits below the size read 0."""
    width = 8 if bits64 else 4
    below = (1 << max(BAR_FLAGS.bit_length(), (size_bytes - 1).bit_length())) - 1
    return ConfigRegister(BARS_OFFSET + 4 * index, width, writable=((1 << 8 * width) - 1) & ~below)


def all_of(word: type[Word], *, without: tuple[str, ...] = ()) -> int:
    """Mask of every field of a word but those named."""
    fields = (bits for bits in vars(word).values() if isinstance(bits, Bits) and bits.name not in without)
    return sum(bits.mask << bits.low for bits in fields)


HEADER_REGISTERS: Final = (
    ConfigRegister(COMMAND_OFFSET, 2, writable=all_of(CommandRegister)),
    ConfigRegister(STATUS_OFFSET, 2, clearable=all_of(StatusRegister, without=("capabilities_list",))),
    ConfigRegister(CACHE_LINE_SIZE_OFFSET, 1, writable=0xFF),
    ConfigRegister(INTERRUPT_LINE_OFFSET, 1, writable=0xFF),
)
"""Of the standard header (type 0), without the BARs, whose masks follow from their sizes."""
CAPABILITY_REGISTERS: Final[dict[int, tuple[ConfigRegister, ...]]] = {
    Capability.POWER_MANAGEMENT: (ConfigRegister(PMCSR_OFFSET, 2, writable=PowerManagementControl.of(power_state=3)),),
    Capability.PCI_EXPRESS: (
        ConfigRegister(DEVICE_CONTROL_OFFSET, 2, writable=all_of(DeviceControl, without=("initiate_reset",))),
        ConfigRegister(DEVICE_STATUS_OFFSET, 2, clearable=all_of(DeviceStatus)),
        ConfigRegister(LINK_CONTROL_OFFSET, 2, writable=all_of(LinkControl)),
        ConfigRegister(DEVICE_CONTROL2_OFFSET, 2, writable=all_of(DeviceControl2)),
        ConfigRegister(LINK_CONTROL2_OFFSET, 2, writable=all_of(LinkControl2)),
    ),
    Capability.MSIX: (ConfigRegister(MSIX_CONTROL_OFFSET, 2, writable=MsixControl.of(function_mask=1, enable=1)),),
}
"""By capability id; capabilities that are not here are read only."""
_STREAM_FAILURE: Final = IdeStreamStatus.of(integrity_check_failed=1)
EXTENDED_REGISTERS: Final[dict[int, tuple[ConfigRegister, ...]]] = {
    ExtendedCapability.INTEGRITY_AND_DATA_ENCRYPTION: (
        ConfigRegister(IDE_LINK_CONTROL_OFFSET, IDE_REGISTER_BYTES, writable=all_of(IdeLinkControl)),
        ConfigRegister(IDE_LINK_STATUS_OFFSET, IDE_REGISTER_BYTES, clearable=_STREAM_FAILURE),
        ConfigRegister(IDE_SELECTIVE_CONTROL_OFFSET, IDE_REGISTER_BYTES, writable=all_of(IdeSelectiveControl)),
        ConfigRegister(IDE_SELECTIVE_STATUS_OFFSET, IDE_REGISTER_BYTES, clearable=_STREAM_FAILURE),
        ConfigRegister(IDE_RID_ASSOCIATION1_OFFSET, IDE_REGISTER_BYTES, writable=all_of(IdeRidAssociation1)),
        ConfigRegister(IDE_RID_ASSOCIATION2_OFFSET, IDE_REGISTER_BYTES, writable=all_of(IdeRidAssociation2)),
    ),
}
"""By extended capability id; a mailbox for data objects (`ihsm_abi.doe`) keeps its own."""
