# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""IDENTIFY: the page, and the entry sizes that the driver insists on (spec 01 §6.4)."""

from __future__ import annotations

import errno

import numpy as np

from ihsm_abi.admin import IDENTIFY, IDENTIFY_SIZES
from ihsm_abi.pci import PAGE_BYTES
from ihsm_kmod.hsm.admin import AdminCommands
from ihsm_kmod.hsm.logs import Log
from ihsm_kmod.kernel.dma import dma_alloc_coherent, dma_free_coherent
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.pci import PciDev


class IdentifyPage:
    """The page that IDENT fills; kept as long as the controller is up."""

    def __init__(self, pdev: PciDev) -> None:
        """Allocate it."""
        self._pdev = pdev
        self._memory = dma_alloc_coherent(pdev, PAGE_BYTES)

    def read(self, admin: AdminCommands, log: Log) -> np.void:
        """Ask the controller who it is.

        Raises:
            Errno: EINVAL, its entries are not as long as ours; else as of the command.
        """
        admin.identify(self._memory.dma_handle)
        identity: np.void = np.frombuffer(self._memory.view[: IDENTIFY.itemsize].tobytes(), IDENTIFY)[0]
        for field, sizes in IDENTIFY_SIZES.items():
            # Only the maximum, the low nibble, counts.
            if int(identity[field]) & 0xF != sizes & 0xF:
                raise Errno(errno.EINVAL, f"identify: {field} is {int(identity[field]):#x}")
        log.info(f"serial number {identity['sn']!r}, firmware {identity['fr']!r}")
        return identity

    def free(self) -> None:
        """Give it back."""
        dma_free_coherent(self._pdev, self._memory)
