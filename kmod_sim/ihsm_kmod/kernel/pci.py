# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a PCI driver has of its device (linux/pci.h): identity, configuration space, BARs, MSI-X vectors, SR-IOV.

`pci_bus.py` has the other side: which devices there are, and which driver has which.
"""

from __future__ import annotations

import errno
from typing import Any

from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.io import IoMem
from ihsm_kmod.kernel.msi import pci_alloc_irq_vectors, pci_free_irq_vectors, pci_irq_vector
from ihsm_kmod.kernel.pci_bus import PciBus
from ihsm_kmod.kernel.pci_config import (
    PCI_CFG_SPACE_SIZE,
    PCI_COMMAND,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_EXT_CAP_ID_SRIOV,
    PCI_SRIOV_CTRL,
    PCI_SRIOV_CTRL_MSE,
    PCI_SRIOV_CTRL_VFE,
    PCI_SRIOV_NUM_VF,
    PCI_SRIOV_TOTAL_VF,
    pci_find_ext_capability,
    pci_read_config_dword,
    pci_read_config_word,
    pci_write_config_word,
)
from ihsm_kmod.kernel.pci_dev import PciDev, PciDeviceId, PciDriver
from ihsm_kmod.kernel.report import ReportKind, might_sleep, warn, where
from ihsm_kmod.kernel.task import current

__all__ = [
    "PCI_CFG_SPACE_SIZE",
    "PCI_COMMAND",
    "PCI_COMMAND_MASTER",
    "PCI_COMMAND_MEMORY",
    "PCI_EXT_CAP_ID_SRIOV",
    "PCI_SRIOV_CTRL",
    "PCI_SRIOV_NUM_VF",
    "PCI_SRIOV_TOTAL_VF",
    "PciDev",
    "PciDeviceId",
    "PciDriver",
    "pci_alloc_irq_vectors",
    "pci_disable_device",
    "pci_enable_device",
    "pci_find_ext_capability",
    "pci_free_irq_vectors",
    "pci_get_drvdata",
    "pci_iomap",
    "pci_iounmap",
    "pci_irq_vector",
    "pci_name",
    "pci_num_vf",
    "pci_read_config_dword",
    "pci_read_config_word",
    "pci_register_driver",
    "pci_release_regions",
    "pci_request_regions",
    "pci_resource_len",
    "pci_set_drvdata",
    "pci_set_master",
    "pci_sriov_configure_simple",
    "pci_unregister_driver",
    "pci_write_config_word",
]
"""All of linux/pci.h, wherever it is defined."""


def pci_name(pdev: PciDev) -> str:
    """Address like 0000:00:04.0."""
    return pdev.name


def pci_set_drvdata(pdev: PciDev, data: object) -> None:
    """Keep what the driver has of its own for this device."""
    pdev.driver_data = data


def pci_get_drvdata(pdev: PciDev) -> Any:
    """What `pci_set_drvdata` kept; None after the driver has let go of the device."""
    return pdev.driver_data


def pci_register_driver(driver: PciDriver) -> None:
    """Offer a driver; it is given all of its devices that there are, and those to come.

    Raises:
        Errno: EBUSY, there is a driver of this name. A device that it refuses is no error.
    """
    current().kernel.part(PciBus).register(driver)


def pci_unregister_driver(driver: PciDriver) -> None:
    """Take all its devices from a driver, and forget it."""
    current().kernel.part(PciBus).unregister(driver)


def _change_command(pdev: PciDev, clear: int, put: int) -> None:
    pci_write_config_word(pdev, PCI_COMMAND, pci_read_config_word(pdev, PCI_COMMAND) & ~clear | put)


def pci_enable_device(pdev: PciDev) -> None:
    """Let the function answer accesses to its BARs. Calls are counted."""
    might_sleep()
    pdev.enabled_at.append(where())
    if len(pdev.enabled_at) == 1:
        _change_command(pdev, 0, PCI_COMMAND_MEMORY)


def pci_disable_device(pdev: PciDev) -> None:
    """Undo `pci_enable_device`; the last takes bus mastering away."""
    if not pdev.enabled_at:
        warn(ReportKind.WARN, f"{pdev.name}: disabling already-disabled device")
        return
    pdev.enabled_at.pop()
    if not pdev.enabled_at:
        _change_command(pdev, PCI_COMMAND_MASTER, 0)


def pci_set_master(pdev: PciDev) -> None:
    """Let the function begin transfers of its own: DMA, and the messages that are its interrupts."""
    _change_command(pdev, 0, PCI_COMMAND_MASTER)


def pci_request_regions(pdev: PciDev, name: str) -> None:
    """Have all BARs for this driver alone.

    Raises:
        Errno: EBUSY, somebody has them.
    """
    if pdev.regions is not None:
        raise Errno(errno.EBUSY, f"{pdev.name}: BARs are taken by {pdev.regions[0]}, at {pdev.regions[1]}")
    pdev.regions = (name, where())


def pci_release_regions(pdev: PciDev) -> None:
    """Undo `pci_request_regions`."""
    if pdev.regions is None:
        warn(ReportKind.WARN, f"{pdev.name}: trying to free nonexistent resource")
    pdev.regions = None


def pci_resource_len(pdev: PciDev, bar: int) -> int:
    """Size of a BAR in bytes; 0 if there is none."""
    return pdev.bars[bar]


def pci_iomap(pdev: PciDev, bar: int) -> IoMem:
    """Map a BAR, for `readl` and its like.

    Raises:
        Errno: ENOMEM, there is no such BAR (in Linux: NULL).
    """
    if not pdev.bars[bar]:
        raise Errno(errno.ENOMEM, f"{pdev.name} has no BAR{bar}")
    iomem = IoMem(pdev.function, bar, where())
    pdev.mapped.append(iomem)
    return iomem


def pci_iounmap(pdev: PciDev, iomem: IoMem) -> None:
    """Undo `pci_iomap`; from now on an access is a page fault."""
    if not iomem.mapped:
        warn(ReportKind.WARN, f"trying to iounmap BAR{iomem.bar} of {pdev.name}, which is not mapped")
        return
    iomem.mapped = False
    pdev.mapped.remove(iomem)


def pci_num_vf(pdev: PciDev) -> int:
    """Number of virtual functions that are enabled."""
    return pdev.num_vf


def pci_sriov_configure_simple(pdev: PciDev, count: int) -> int:
    """Enable `count` virtual functions, or disable all with 0: a `sriov_configure` for whoever needs no more.

    Raises:
        Errno: EINVAL, the function has fewer; ENODEV, it has no SR-IOV; EBUSY, some are enabled.
    """
    capability = pci_find_ext_capability(pdev, PCI_EXT_CAP_ID_SRIOV)
    if not capability:
        raise Errno(errno.ENODEV, f"{pdev.name} has no SR-IOV")
    if count and pdev.num_vf:
        raise Errno(errno.EBUSY, f"{pdev.name} has {pdev.num_vf} virtual functions")
    if not 0 <= count <= pci_read_config_word(pdev, capability + PCI_SRIOV_TOTAL_VF):
        raise Errno(errno.EINVAL, f"{count} virtual functions for {pdev.name}")
    control = pci_read_config_word(pdev, capability + PCI_SRIOV_CTRL) & ~(PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE)
    # NumVFs must not change while virtual functions are enabled (PCI Express Base, section 9.3.3.8).
    pci_write_config_word(pdev, capability + PCI_SRIOV_CTRL, control)
    pci_write_config_word(pdev, capability + PCI_SRIOV_NUM_VF, count)
    if count:
        pci_write_config_word(pdev, capability + PCI_SRIOV_CTRL, control | PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE)
    pdev.num_vf = count
    return count
