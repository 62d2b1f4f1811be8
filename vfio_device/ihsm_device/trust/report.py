# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Device interface report: what a locked interface says of its configuration (PCIe 6.x 11.3.11, spec 06 §2.4)."""

from __future__ import annotations

from typing import Final

from ihsm_abi.pci import Bar
from ihsm_abi.pci_config import BAR_FLAGS
from ihsm_abi.tdisp import PAGE_BYTES, DeviceInfo, InterfaceInfo, MmioAttributes, MmioRange, ReportHead
from ihsm_device.tdi import Registers

_WORD: Final = 0xFFFF_FFFF
_QUAD: Final = 0xFFFF_FFFF_FFFF_FFFF
_WORD_BITS: Final = 32


def interface_report(
    registers: Registers, reporting_offset: int, *, no_update: bool, whole_addresses: bool = True
) -> bytes:
    """The report of the function as it is locked.

    `reporting_offset` is what LOCK_INTERFACE wants put on addresses. Without `whole_addresses` bits 32 to 35 of
    addresses are 0, as in the firmware's reports.
    """
    head = ReportHead(
        interface_info=InterfaceInfo.DMA_WITHOUT_PASID | (InterfaceInfo.NO_FW_UPDATE if no_update else 0),
        msix_message_control=registers.msix_control,
        lnr_control=0,
        tph_control=0,
        range_count=len(Bar),
    )
    ranges = b"".join(_range(registers, bar, reporting_offset, whole_addresses).encode() for bar in Bar)
    return head.encode() + ranges + DeviceInfo(info=b"").encode()


def _range(registers: Registers, bar: Bar, reporting_offset: int, whole_addresses: bool) -> MmioRange:
    high_mask = _WORD if whole_addresses else _WORD & ~BAR_FLAGS
    low, high = registers.bars[bar] & ~BAR_FLAGS, registers.bars[bar + 1] & high_mask
    address = ((high << _WORD_BITS | low) + reporting_offset) & _QUAD
    has_vectors = bar is Bar.MSIX
    return MmioRange(
        first_page=address // PAGE_BYTES,
        pages=1,
        attributes=MmioAttributes.of(msix_table=has_vectors, msix_pba=has_vectors, range_id=bar),
    )
