# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The PCI side: probe, remove, shutdown (spec 01 §1, §12, §13)."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from ihsm_abi.pci import BAR_BYTES, DEVICE_ID, MSIX_VECTORS, VENDOR_ID, Bar
from ihsm_abi.uapi_names import DRIVER_NAME
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.health import HealthMonitor
from ihsm_kmod.hsm.hsm_device import HsmDevice
from ihsm_kmod.hsm.management import ManagementDevice
from ihsm_kmod.hsm.nodes import NodeClass
from ihsm_kmod.hsm.parameters import HsmParameters
from ihsm_kmod.kernel.dma import dma_set_mask_and_coherent
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.io import IoMem
from ihsm_kmod.kernel.pci import (
    PCI_EXT_CAP_ID_SRIOV,
    PCI_SRIOV_CTRL,
    PCI_SRIOV_NUM_VF,
    PCI_SRIOV_TOTAL_VF,
    PciDev,
    PciDeviceId,
    PciDriver,
    pci_alloc_irq_vectors,
    pci_disable_device,
    pci_enable_device,
    pci_find_ext_capability,
    pci_free_irq_vectors,
    pci_get_drvdata,
    pci_iomap,
    pci_iounmap,
    pci_name,
    pci_read_config_word,
    pci_release_regions,
    pci_request_regions,
    pci_resource_len,
    pci_set_drvdata,
    pci_set_master,
    pci_sriov_configure_simple,
)

MIN_VECTORS: Final = 3


@dataclass
class BoundFunction:
    """What the driver keeps of a function it is bound to."""

    controller: Controller
    monitor: HealthMonitor
    undo: ExitStack
    """Gives back, in reverse order, what the probe got from the PCI core; last made is first: the management node."""


class HsmPciDriver:
    """The callbacks that the PCI core calls; one for all functions of the module."""

    controller: type[Controller] = Controller
    """Of a function that it is bound to."""

    def __init__(self, module: HsmParameters, hsm_nodes: NodeClass, mgmt_nodes: NodeClass) -> None:
        """Callbacks of this module, which make nodes of these classes."""
        self._module = module
        self._hsm_nodes = hsm_nodes
        self._mgmt_nodes = mgmt_nodes
        self.driver = PciDriver(
            name=DRIVER_NAME,
            # PF and VF have the same ids; which it is shows in its capabilities (spec 01 §1.1).
            id_table=[PciDeviceId(VENDOR_ID, DEVICE_ID)],
            probe=self.probe,
            remove=self.remove,
            shutdown=self.shutdown,
            sriov_configure=pci_sriov_configure_simple,
        )

    def probe(self, pdev: PciDev, device_id: PciDeviceId) -> None:
        """Bind to a function.

        Raises:
            Errno: by cause (end of spec 01 §12).
        """
        with ExitStack() as undo:
            pci_enable_device(pdev)
            undo.callback(pci_disable_device, pdev)
            dma_set_mask_and_coherent(pdev, 64)
            pci_set_master(pdev)
            pci_request_regions(pdev, DRIVER_NAME)
            undo.callback(pci_release_regions, pdev)
            registers, doorbells, _ = (_map(pdev, bar, undo) for bar in Bar)
            vectors = pci_alloc_irq_vectors(pdev, MIN_VECTORS, MSIX_VECTORS)
            undo.callback(pci_free_irq_vectors, pdev)
            controller = self.controller(pdev, self._module, registers, doorbells, vectors)
            controller.hsm_device = HsmDevice(controller, self._hsm_nodes)
            bound = BoundFunction(controller, HealthMonitor(controller), undo)
            pci_set_drvdata(pdev, bound)
            self._look_for_vfs(controller, undo)
            controller.initialize()
            bound.undo = undo.pop_all()
        bound.monitor.start()

    def _look_for_vfs(self, controller: Controller, undo: ExitStack) -> None:
        """A PF is what has the SR-IOV capability; its VFs are those that it has now (spec 01 §1.1)."""
        capability = pci_find_ext_capability(controller.pdev, PCI_EXT_CAP_ID_SRIOV)
        if not capability:
            return
        controller.is_pf = True
        control, total, controller.num_vfs = (
            pci_read_config_word(controller.pdev, capability + offset)
            for offset in (PCI_SRIOV_CTRL, PCI_SRIOV_TOTAL_VF, PCI_SRIOV_NUM_VF)
        )
        controller.log.info(f"SR-IOV control {control:#x}, VFs {controller.num_vfs} of {total}")
        if controller.num_vfs:
            undo.callback(ManagementDevice(controller, self._mgmt_nodes).destroy)

    def remove(self, pdev: PciDev) -> None:
        """Let go of a function (spec 01 §13)."""
        bound = self._bound(pdev)
        bound.monitor.stop()
        bound.controller.remove()
        bound.undo.close()
        pci_set_drvdata(pdev, None)

    def shutdown(self, pdev: PciDev) -> None:
        """The machine goes down: stop the controller. Interrupts, memory and queues stay as they are (spec 01 §4.6)."""
        self._bound(pdev).controller.disable()
        pci_release_regions(pdev)
        pci_disable_device(pdev)

    @staticmethod
    def _bound(pdev: PciDev) -> BoundFunction:
        bound = pci_get_drvdata(pdev)
        assert isinstance(bound, BoundFunction), f"{pci_name(pdev)} is not bound"
        return bound


def _map(pdev: PciDev, bar: Bar, undo: ExitStack) -> IoMem:
    """Map a BAR; ENOMEM for one of another length, though it is no matter of memory (spec 01 §1)."""
    if pci_resource_len(pdev, bar) != BAR_BYTES:
        raise Errno(errno.ENOMEM, f"BAR{bar.value} has {pci_resource_len(pdev, bar)} bytes")
    iomem = pci_iomap(pdev, bar)
    undo.callback(pci_iounmap, pdev, iomem)
    return iomem
