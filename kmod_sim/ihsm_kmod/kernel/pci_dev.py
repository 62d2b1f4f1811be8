# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A PCI device and its driver, as the bus and all functions of linux/pci.h know them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ihsm.bus.function import BARS, PciFunction
from ihsm_kmod.kernel.dma_device import DmaDevice
from ihsm_kmod.kernel.io import IoMem
from ihsm_kmod.kernel.mutex import Mutex
from ihsm_kmod.kernel.sysfs import KObject
from ihsm_kmod.kernel.task import Core

PCI_VENDOR_ID: Final = 0x00
PCI_DEVICE_ID: Final = 0x02
PCI_CLASS_REVISION: Final = 0x08


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

    def __init__(self, kernel: Core, function: PciFunction, name: str, kobj: KObject) -> None:
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
