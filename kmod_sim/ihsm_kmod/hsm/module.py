# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The module: parameters, classes, numbers of character devices, the PCI driver (spec 01 §9, 02 A.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Self

from ihsm_kmod.hsm.pci import DRIVER_NAME, HsmPciDriver
from ihsm_kmod.hsm.quirks import Quirks
from ihsm_kmod.kernel.cdev import alloc_chrdev_region, unregister_chrdev_region
from ihsm_kmod.kernel.device import class_create, class_destroy
from ihsm_kmod.kernel.idr import Ida
from ihsm_kmod.kernel.module import Module, Param
from ihsm_kmod.kernel.pci import pci_register_driver, pci_unregister_driver

HSM_CLASS: Final = "azihsm-hsm"
MGMT_CLASS: Final = "azihsm-mgmt"
MINORS: Final = 16 * 65
DRIVER_VERSION: Final = "3.2.0"


class HsmModule(Module):
    """`azihsm.ko`."""

    name = DRIVER_NAME
    quirks = Quirks()
    """What this build of the driver gets wrong."""
    test_hooks = False
    """Whether it is built with TEST_HOOK_SUPPORT (spec 02 A.11)."""

    log_mask = Param(int, 0x1, 0o644, "1 error, 2 warn, 4 info, 8 debug, 0x10 entry, 0x20 exit")
    abort_timeout_in_sec = Param(int, 6, 0o444, "seconds without answer before an abort", lambda value: max(value, 6))
    pf_lvl2_abort_enabled = Param(bool, True, 0o444, "whether a PF may do a level-2 abort")
    num_hsm_slots = Param(int, 16, 0o444, "entries of an HSM queue", lambda value: max(value, 2))
    num_aes_slots = Param(int, 16, 0o444, "entries of an AES queue", lambda value: max(value, 2))
    pf_res_cnt = Param(int, 1, 0o444, "resources that a PF gives itself", lambda value: min(value, 64))

    @classmethod
    def built_with(cls, *, quirks: Mapping[str, bool] | None = None, test_hooks: bool = False) -> type[Self]:
        """The module of another build."""
        return type(cls.__name__, (cls,), {"quirks": Quirks(quirks), "test_hooks": test_hooks})

    def init(self) -> None:
        """Load: classes and numbers, then the driver, whose probes make use of them."""
        self.hsm_class = class_create(HSM_CLASS)
        self.hsm_major = alloc_chrdev_region(0, MINORS, HSM_CLASS)
        self.hsm_minors = Ida()
        self.mgmt_class = class_create(MGMT_CLASS)
        self.mgmt_major = alloc_chrdev_region(0, MINORS, MGMT_CLASS)
        self.mgmt_minors = Ida()
        self._pci = HsmPciDriver(self)
        pci_register_driver(self._pci.driver)

    def exit(self) -> None:
        """Unload: every function is let go of first."""
        pci_unregister_driver(self._pci.driver)
        unregister_chrdev_region(self.mgmt_major)
        class_destroy(self.mgmt_class)
        unregister_chrdev_region(self.hsm_major)
        class_destroy(self.hsm_class)
