# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What all parts of the driver share of one function."""

from __future__ import annotations

from typing import Final

import numpy as np

from ihsm_abi.uapi import ControllerState
from ihsm_kmod.hsm.counters import ControllerCounters
from ihsm_kmod.hsm.logs import Log
from ihsm_kmod.hsm.parameters import HsmParameters
from ihsm_kmod.hsm.registers import Registers
from ihsm_kmod.kernel.io import IoMem
from ihsm_kmod.kernel.mutex import Mutex
from ihsm_kmod.kernel.pci import PciDev

ENTROPY_BYTES: Final = 32


class HsmFunction:
    """One function that the driver is bound to; `lifecycle` has what is done with it."""

    def __init__(self, pdev: PciDev, module: HsmParameters, registers: IoMem, doorbells: IoMem, vectors: int) -> None:
        """A function whose BAR0 and BAR2 are mapped and that got so many vectors; it is not touched."""
        self.pdev = pdev
        self.module = module
        self.quirks = module.quirks
        self.log = Log(module, pdev)
        self.vectors = vectors
        self.doorbells = doorbells
        self.registers = Registers(registers, self.log)
        self.is_pf = False
        self.num_vfs = 0
        """As it was at the probe."""
        self.state = ControllerState.NOT_INITIALIZED
        self.abort_in_progress = False
        self.abort_mutex = Mutex("abort_mutex")
        self.counters = ControllerCounters()
        self.entropy = bytes(ENTROPY_BYTES)
        self.identity: np.void | None = None
        """Of the last time that it was identified: who is told of it may have looked at the state before a reset."""
        self.gcm_workaround = False
        self.enabled = False
        """CC.EN is set, and the controller has followed."""
