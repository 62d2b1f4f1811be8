# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The module: classes of nodes, the PCI driver (spec 02 A.1)."""

from __future__ import annotations

from contextlib import ExitStack

from ihsm_kmod.hsm.nodes import hsm_nodes, mgmt_nodes
from ihsm_kmod.hsm.parameters import HsmParameters
from ihsm_kmod.hsm.pci import HsmPciDriver
from ihsm_kmod.kernel.pci import pci_register_driver, pci_unregister_driver


class HsmModule(HsmParameters):
    """`azihsm.ko`."""

    pci_driver: type[HsmPciDriver] = HsmPciDriver
    """What it registers; a driver derived from this one has another."""

    def init(self) -> None:
        """Load: classes and numbers, then the driver, whose probes make use of them."""
        with ExitStack() as undo:
            self.hsm_nodes = hsm_nodes()
            undo.callback(self.hsm_nodes.destroy)
            self.mgmt_nodes = mgmt_nodes()
            undo.callback(self.mgmt_nodes.destroy)
            driver = self.pci_driver(self, self.hsm_nodes, self.mgmt_nodes).driver
            pci_register_driver(driver)
            undo.callback(pci_unregister_driver, driver)
            self._undo = undo.pop_all()

    def exit(self) -> None:
        """Unload, in reverse order: every function is let go of first."""
        self._undo.close()
