# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration space (linux/pci.h, linux/pci_regs.h)."""

from __future__ import annotations

import contextlib
from typing import Final

from ihsm.errors import BusError
from ihsm_kmod.kernel.pci_dev import PciDev

PCI_COMMAND: Final = 0x04
PCI_COMMAND_MEMORY: Final = 1 << 1
PCI_COMMAND_MASTER: Final = 1 << 2
PCI_CFG_SPACE_SIZE: Final = 256
"""Where the extended capabilities begin (PCI Express Base, section 7.6.1)."""
PCI_EXT_CAP_ID_SRIOV: Final = 0x0010
MAX_EXT_CAPABILITIES: Final = 480
"""As many as there is room for: a list that is longer goes in a circle."""

PCI_SRIOV_CTRL: Final = 0x08
PCI_SRIOV_CTRL_VFE: Final = 1 << 0
PCI_SRIOV_CTRL_MSE: Final = 1 << 3
PCI_SRIOV_TOTAL_VF: Final = 0x0E
PCI_SRIOV_NUM_VF: Final = 0x10


def _read_config(pdev: PciDev, offset: int, size: int) -> int:
    try:
        return int.from_bytes(pdev.function.read_config(offset, size), "little")
    except BusError:
        return (1 << 8 * size) - 1  # nobody answers


def pci_read_config_word(pdev: PciDev, offset: int) -> int:
    """16 bits of configuration space; all ones if the device is gone."""
    return _read_config(pdev, offset, 2)


def pci_read_config_dword(pdev: PciDev, offset: int) -> int:
    """32 bits of configuration space; all ones if the device is gone."""
    return _read_config(pdev, offset, 4)


def pci_write_config_word(pdev: PciDev, offset: int, value: int) -> None:
    """Write 16 bits of configuration space; lost if the device is gone."""
    with contextlib.suppress(BusError):
        pdev.function.write_config(offset, value.to_bytes(2, "little"))


def pci_find_ext_capability(pdev: PciDev, capability: int) -> int:
    """Offset of the first extended capability with this id; 0 if there is none (PCI Express Base, section 7.6.3)."""
    offset = PCI_CFG_SPACE_SIZE
    for _ in range(MAX_EXT_CAPABILITIES):
        if not PCI_CFG_SPACE_SIZE <= offset <= pdev.function.config_bytes - 4:
            break
        header = pci_read_config_dword(pdev, offset)
        # A blank header ends the list: QEMU makes one of each capability that a guest is not to see.
        if header in (0, 0xFFFF_FFFF):
            break
        if header & 0xFFFF == capability:
            return offset
        offset = header >> 20 & ~3
    return 0
