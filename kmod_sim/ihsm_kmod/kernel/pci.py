# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a PCI driver has of its device (linux/pci.h): identity, configuration space, BARs, MSI-X vectors, SR-IOV.

`pci_bus.py` has the other side: which devices there are, and which driver has which.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ihsm.bus.function import BARS, PciFunction
from ihsm.errors import BusError
from ihsm_kmod.kernel.dma import DmaDevice
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.io import IoMem
from ihsm_kmod.kernel.mutex import Mutex
from ihsm_kmod.kernel.report import ReportKind, might_sleep, warn, where
from ihsm_kmod.kernel.task import current

if TYPE_CHECKING:
    from ihsm_kmod.kernel.kernel import Kernel
    from ihsm_kmod.kernel.sysfs import KObject

PCI_VENDOR_ID: Final = 0x00
PCI_DEVICE_ID: Final = 0x02
PCI_COMMAND: Final = 0x04
PCI_COMMAND_MEMORY: Final = 1 << 1
PCI_COMMAND_MASTER: Final = 1 << 2
PCI_CLASS_REVISION: Final = 0x08
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


@dataclass(frozen=True)
class PciDeviceId:
    """A kind of device that a driver is for."""

    vendor: int
    device: int


@dataclass(frozen=True)
class PciDriver:
    """A driver: what is called for each of its devices (Linux: struct pci_driver and its pci_error_handlers)."""

    name: str
    id_table: Sequence[PciDeviceId]
    probe: Callable[[PciDev, PciDeviceId], None]
    """Take the device, or raise `Errno` and leave nothing behind."""
    remove: Callable[[PciDev], None]
    """Let go of the device, which may be gone already."""
    shutdown: Callable[[PciDev], None] | None = None
    """The machine is about to stop: the device must be quiet."""
    sriov_configure: Callable[[PciDev, int], int] | None = None
    """Have so many virtual functions; how many there are then."""
    reset_prepare: Callable[[PciDev], None] | None = None
    """The function is about to be reset by somebody else."""
    reset_done: Callable[[PciDev], None] | None = None
    """It was."""


class PciDev:
    """One PCI function (Linux: struct pci_dev)."""

    def __init__(self, kernel: Kernel, function: PciFunction, name: str, kobj: KObject) -> None:
        """Identify the function; no driver has it yet."""
        self.function = function
        self.name = name
        self.kobj = kobj
        self.vendor = int.from_bytes(function.read_config(PCI_VENDOR_ID, 2), "little")
        self.device = int.from_bytes(function.read_config(PCI_DEVICE_ID, 2), "little")
        self.class_code = int.from_bytes(function.read_config(PCI_CLASS_REVISION, 4), "little") >> 8
        self.bars = tuple(function.bar_bytes(bar) for bar in range(BARS))
        self.dma = DmaDevice(function, strict=kernel.dma == "strict")
        self.lock = Mutex(f"device {name}")
        """Held while a driver is given the device or loses it."""
        self.driver: PciDriver | None = None
        self.driver_data: Any = None
        self.probe_error = 0
        self.num_vf = 0
        self.enabled_at: list[str] = []
        self.regions: tuple[str, str] | None = None
        """Who has the memory regions, and since which line."""
        self.mapped: list[IoMem] = []
        self.irqs: list[int] = []
        self.events: list[int] = []
        self.vectors_at = ""


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
    current().kernel.pci.register(driver)


def pci_unregister_driver(driver: PciDriver) -> None:
    """Take all its devices from a driver, and forget it."""
    current().kernel.pci.unregister(driver)


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


def pci_alloc_irq_vectors(pdev: PciDev, minimum: int, maximum: int) -> int:
    """Have between `minimum` and `maximum` MSI-X vectors (Linux: with PCI_IRQ_MSIX alone); how many were granted.

    Raises:
        Errno: EINVAL, the function has no MSI-X, or the driver has vectors; ENOSPC, it has fewer than `minimum`;
            EIO, the bus refused.
    """
    might_sleep()
    available = pdev.function.vectors
    if pdev.irqs or not available or maximum < minimum:
        raise Errno(errno.EINVAL, f"{pdev.name}: {len(pdev.irqs)} of {available} vectors allocated")
    count = min(maximum, available)
    if count < minimum:
        raise Errno(errno.ENOSPC, f"{pdev.name} has {available} vectors, {minimum} needed")
    pdev.events = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(count)]
    try:
        enable_vectors(pdev)
    except Errno:
        _close_events(pdev)
        raise
    interrupts = current().kernel.interrupts
    pdev.irqs = [interrupts.add(event) for event in pdev.events]
    pdev.vectors_at = where()
    return count


def enable_vectors(pdev: PciDev) -> None:
    """Tell the function where its interrupts go, if it has any; also after a reset.

    Raises:
        Errno: EIO, the bus refused.
    """
    if not pdev.events:
        return
    try:
        pdev.function.enable_interrupts(pdev.events)
    except BusError as error:
        raise Errno(errno.EIO, str(error)) from None


def pci_free_irq_vectors(pdev: PciDev) -> None:
    """Undo `pci_alloc_irq_vectors`. Every handler must have been freed."""
    might_sleep()
    for irq in pdev.irqs:
        current().kernel.interrupts.remove(irq)
    pdev.irqs = []
    pci_silence(pdev)


def pci_silence(pdev: PciDev) -> None:
    """Have the function raise no interrupt any more; harmless the second time."""
    if pdev.events:
        with contextlib.suppress(BusError):  # gone, and silent for good
            pdev.function.disable_interrupts()
        _close_events(pdev)


def _close_events(pdev: PciDev) -> None:
    events, pdev.events = pdev.events, []
    for event in events:
        os.close(event)


def pci_irq_vector(pdev: PciDev, number: int) -> int:
    """Interrupt of a vector, for `request_irq`.

    Raises:
        Errno: EINVAL, so many were not granted.
    """
    if not 0 <= number < len(pdev.irqs):
        raise Errno(errno.EINVAL, f"{pdev.name}: vector {number} of {len(pdev.irqs)}")
    return pdev.irqs[number]


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
