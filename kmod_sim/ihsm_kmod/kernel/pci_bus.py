# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The PCI bus: which devices there are, and which driver has which (Linux: pci-driver.c, drivers/base/dd.c)."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from typing import TypeVar

from ihsm.bus.function import PciFunction
from ihsm.errors import BusError
from ihsm_kmod.kernel.entry import run_as
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.interrupt import Interrupts
from ihsm_kmod.kernel.msi import enable_vectors, pci_free_irq_vectors, pci_silence
from ihsm_kmod.kernel.pci_config import (
    PCI_COMMAND,
    PCI_EXT_CAP_ID_SRIOV,
    PCI_SRIOV_TOTAL_VF,
    pci_find_ext_capability,
    pci_read_config_word,
    pci_write_config_word,
)
from ihsm_kmod.kernel.pci_dev import PciDev, PciDeviceId, PciDriver
from ihsm_kmod.kernel.printk import dev_dbg, dev_err
from ihsm_kmod.kernel.report import ReportKind, crash, warn
from ihsm_kmod.kernel.sysfs import (
    WRITE_ONLY,
    Sysfs,
    kobject_create_and_add,
    kobject_put,
    sysfs_create_file,
    sysfs_create_link,
    sysfs_remove_link,
)
from ihsm_kmod.kernel.task import Core, Task, current, current_or_none

T = TypeVar("T")


class PciBus:
    """The bus of one kernel. Its methods are the machine's and the administrator's; drivers use pci.py."""

    def __init__(self, kernel: Core) -> None:
        """An empty bus."""
        self._kernel = kernel
        self._sysfs = kernel.part(Sysfs)
        self._devices: dict[str, PciDev] = {}
        self._drivers: dict[str, PciDriver] = {}

    def add(self, function: PciFunction, bdf: str = "0000:00:04.0") -> PciDev:
        """Plug a function in; it stays the caller's to close. If there is a driver for it, it is probed.

        Raises:
            Errno: EEXIST, there is a device at that address; EIO, the function does not tell what it is.
        """
        return self._in_task(lambda: self._add(function, bdf))

    def bind(self, bdf: str) -> None:
        """Give a device that no driver has to its driver (sysfs `bind`).

        Raises:
            Errno: ENODEV, there is no such device, no driver for it, or it has one; or what probe failed with.
        """
        self._in_task(lambda: self._bind(bdf))

    def unbind(self, bdf: str) -> None:
        """Take a device from its driver (sysfs `unbind`); nothing happens if it has none.

        Raises:
            Errno: ENODEV, there is no such device.
        """
        self._in_task(lambda: self._release_driver(self._device(bdf)))

    def reset(self, bdf: str) -> None:
        """Reset a function, which its driver is told before and after (sysfs `reset`).

        Raises:
            Errno: ENODEV, there is no such device; EIO, the bus refused.
        """
        self._in_task(lambda: self._reset(self._device(bdf)))

    def remove(self, bdf: str, *, surprise: bool = True) -> None:
        """Take a device away: pulled out, so that its driver finds nobody there, or after its driver has let go of it.

        Raises:
            Errno: ENODEV, there is no such device.
        """
        self._in_task(lambda: self._remove(self._device(bdf), surprise))

    def shutdown(self) -> None:
        """Tell all drivers that the machine is about to stop."""
        self._in_task(self._shutdown)

    def probe_error(self, bdf: str) -> int:
        """What the last probe of a device failed with, 0 if it succeeded.

        Raises:
            Errno: ENODEV, there is no such device.
        """
        return self._device(bdf).probe_error

    def device(self, bdf: str) -> PciDev:
        """The device at an address.

        Raises:
            Errno: ENODEV, there is none.
        """
        return self._device(bdf)

    def register(self, driver: PciDriver) -> None:
        """For `pci_register_driver`."""
        kobj = self._sysfs.pci_drivers
        if driver.name in self._drivers:
            raise Errno(errno.EBUSY, f"driver {driver.name} is registered already")
        self._drivers[driver.name] = driver
        folder = kobject_create_and_add(driver.name, kobj)
        sysfs_create_file(folder, "bind", None, lambda bdf: self._bind(bdf.strip()), WRITE_ONLY)
        sysfs_create_file(folder, "unbind", None, lambda bdf: self.unbind(bdf.strip()), WRITE_ONLY)
        for pdev in tuple(self._devices.values()):
            self._attach(pdev)

    def unregister(self, driver: PciDriver) -> None:
        """For `pci_unregister_driver`."""
        for pdev in tuple(self._devices.values()):
            if pdev.driver is driver:
                self._release_driver(pdev)
        if self._drivers.pop(driver.name, None) is not None:
            self._sysfs.drop(self._sysfs.pci_drivers, driver.name)

    def close(self) -> None:
        """The kernel ends: report drivers that are left, and let go of the devices."""
        for name in self._drivers:
            warn(ReportKind.RESOURCE_LEAK, f"driver {name}, without pci_unregister_driver")
        for pdev in self._devices.values():
            _let_go(pdev)

    def power_off(self) -> None:
        """Take from the devices what a crashed kernel has left them. Nothing of the kernel runs any more."""
        for pdev in self._devices.values():
            pci_silence(pdev)
            pdev.dma.close()

    def _in_task(self, call: Callable[[], T]) -> T:
        task = current_or_none()
        if task is not None and task.kernel is self._kernel:
            return call()
        return run_as(Task(self._kernel, "bash"), call)

    def _device(self, bdf: str) -> PciDev:
        pdev = self._devices.get(bdf)
        if pdev is None:
            raise Errno(errno.ENODEV, f"there is no device {bdf}")
        return pdev

    def _add(self, function: PciFunction, bdf: str) -> PciDev:
        sysfs = self._sysfs
        kobj = kobject_create_and_add(bdf, sysfs.pci_root)
        try:
            pdev = PciDev(self._kernel, function, bdf, kobj)
        except BusError as error:
            kobject_put(kobj)
            raise Errno(errno.EIO, str(error)) from None
        sysfs_create_file(kobj, "vendor", lambda: f"{pdev.vendor:#06x}\n")
        sysfs_create_file(kobj, "device", lambda: f"{pdev.device:#06x}\n")
        sysfs_create_file(kobj, "class", lambda: f"{pdev.class_code:#08x}\n")
        sysfs_create_file(kobj, "reset", None, lambda text: self._reset(pdev), WRITE_ONLY)
        sysfs_create_file(kobj, "remove", None, lambda text: self._remove(pdev, False), WRITE_ONLY)
        if capability := pci_find_ext_capability(pdev, PCI_EXT_CAP_ID_SRIOV):
            total = pci_read_config_word(pdev, capability + PCI_SRIOV_TOTAL_VF)
            sysfs_create_file(kobj, "sriov_totalvfs", lambda: f"{total}\n")
            sysfs_create_file(
                kobj, "sriov_numvfs", lambda: f"{pdev.num_vf}\n", lambda text: _configure_vfs(pdev, text), 0o644
            )
        sysfs_create_link(sysfs.pci_devices, kobj, bdf)
        self._devices[bdf] = pdev
        self._attach(pdev)
        return pdev

    def _match(self, pdev: PciDev) -> tuple[PciDriver, PciDeviceId] | None:
        mine = PciDeviceId(pdev.vendor, pdev.device)
        return next(((driver, mine) for driver in self._drivers.values() if mine in driver.id_table), None)

    def _attach(self, pdev: PciDev) -> bool:
        """Probe a device, if there is a driver for it that has it not yet; whether there is."""
        found = self._match(pdev)
        if found is None:
            return False
        with pdev.lock:
            if pdev.driver is not None:
                return False
            self._probe(pdev, *found)
        return True

    def _probe(self, pdev: PciDev, driver: PciDriver, identity: PciDeviceId) -> None:
        pdev.driver = driver
        pdev.probe_error = 0
        try:
            driver.probe(pdev, identity)
        except Errno as error:
            pdev.driver = None
            pdev.driver_data = None
            pdev.probe_error = error.errno
            text = f"probe with driver {driver.name}"
            if error.errno in (errno.ENODEV, errno.ENXIO):
                dev_dbg(pdev, f"{text} rejects match {error.errno}")
            else:
                dev_err(pdev, f"{text} failed with error -{error.errno}")
            _report_leaks(pdev)
            return
        sysfs_create_link(pdev.kobj, self._sysfs.folder(f"bus/pci/drivers/{driver.name}"), "driver")

    def _bind(self, bdf: str) -> None:
        pdev = self._device(bdf)
        if not self._attach(pdev):
            raise Errno(errno.ENODEV, f"{bdf} has a driver, or there is none for it")
        if pdev.probe_error:
            raise Errno(pdev.probe_error, f"probe of {bdf}")

    def _release_driver(self, pdev: PciDev) -> None:
        with pdev.lock:
            driver = pdev.driver
            if driver is None:
                return
            sysfs_remove_link(pdev.kobj, "driver")
            _tell(driver.remove, pdev)
            pdev.driver = None
            pdev.driver_data = None
            _report_leaks(pdev)

    def _reset(self, pdev: PciDev) -> None:
        with pdev.lock:
            if pdev.driver:
                _tell(pdev.driver.reset_prepare, pdev)
            # The command register and the interrupts are the kernel's to restore, all else is the driver's.
            command = pci_read_config_word(pdev, PCI_COMMAND)
            failure = ""
            try:
                pdev.function.reset()
            except BusError as error:
                failure = str(error)
            pci_write_config_word(pdev, PCI_COMMAND, command)
            with contextlib.suppress(Errno):
                enable_vectors(pdev)
            if pdev.driver:
                _tell(pdev.driver.reset_done, pdev)
        if failure:
            raise Errno(errno.EIO, failure)

    def _remove(self, pdev: PciDev, surprise: bool) -> None:
        if surprise:
            # From here on registers read as ones, and the device reaches no memory.
            pdev.function.close()
        self._release_driver(pdev)
        del self._devices[pdev.name]
        _let_go(pdev)
        sysfs_remove_link(self._sysfs.pci_devices, pdev.name)
        kobject_put(pdev.kobj)

    def _shutdown(self) -> None:
        for pdev in reversed(self._devices.values()):
            if pdev.driver:
                _tell(pdev.driver.shutdown, pdev)


def _tell(hook: Callable[[PciDev], None] | None, pdev: PciDev) -> None:
    """Tell a driver what happens to its device, if it wants to know; it has no say in that."""
    if hook is not None:
        try:
            hook(pdev)
        except Errno as error:
            crash(error)


def _configure_vfs(pdev: PciDev, text: str) -> None:
    """What a write to `sriov_numvfs` does (Linux: drivers/pci/iov.c)."""
    try:
        count = int(text, 0)
    except ValueError:
        raise Errno(errno.EINVAL, f"sriov_numvfs: {text!r}") from None
    total = pci_read_config_word(pdev, pci_find_ext_capability(pdev, PCI_EXT_CAP_ID_SRIOV) + PCI_SRIOV_TOTAL_VF)
    if not 0 <= count <= total:
        raise Errno(errno.ERANGE, f"sriov_numvfs: {count} of {total}")
    with pdev.lock:
        if count == pdev.num_vf:
            return
        if pdev.driver is None or pdev.driver.sriov_configure is None:
            raise Errno(errno.ENOENT, f"{pdev.name}: no driver configures virtual functions")
        if count and pdev.num_vf:
            raise Errno(errno.EBUSY, f"{pdev.name}: {pdev.num_vf} virtual functions are enabled")
        pdev.driver.sriov_configure(pdev, count)


def _let_go(pdev: PciDev) -> None:
    """The device is not this kernel's any more: end what its driver has leaked."""
    pci_free_irq_vectors(pdev)
    pdev.dma.close()


def _report_leaks(pdev: PciDev) -> None:
    """A driver has let go of a device: what it still has of it is lost."""
    interrupts = current().kernel.part(Interrupts)
    for irq in pdev.irqs:
        interrupts.report_leak(irq)
    for is_left, what, at in (
        (bool(pdev.irqs), f"{len(pdev.irqs)} interrupt vectors, without pci_free_irq_vectors", pdev.vectors_at),
        *((True, f"mapping of BAR{iomem.bar}, without pci_iounmap", iomem.where) for iomem in pdev.mapped),
        (pdev.regions is not None, "memory regions, without pci_release_regions", pdev.regions and pdev.regions[1]),
        *((True, "device enabled, without pci_disable_device", at) for at in pdev.enabled_at),
    ):
        if is_left:
            warn(ReportKind.RESOURCE_LEAK, f"{pdev.name}: {what}", at)
    pdev.dma.debug.report_leaks()
