# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the driver says, as far as its parameter `log_mask` lets it (spec 01 §9)."""

from __future__ import annotations

from enum import IntFlag

from ihsm_kmod.hsm.parameters import HsmParameters
from ihsm_kmod.kernel.pci import PciDev
from ihsm_kmod.kernel.printk import dev_dbg, dev_err, dev_info, dev_warn


class LogMask(IntFlag):
    """Bits of `log_mask`."""

    ERROR = 0x01
    WARN = 0x02
    INFO = 0x04
    DEBUG = 0x08
    ENTRY = 0x10
    EXIT = 0x20


class Log:
    """The log of one function; the mask is looked at with each line, for the parameter can be written."""

    def __init__(self, module: HsmParameters, pdev: PciDev) -> None:
        """Log about `pdev`."""
        self._module = module
        self._pdev = pdev

    def _wanted(self, bit: LogMask) -> bool:
        return bool(self._module.log_mask & bit)

    def err(self, text: str) -> None:
        """An error; and, by the driver's habit, successful transitions of the controller (spec 01 §4.1)."""
        if self._wanted(LogMask.ERROR):
            dev_err(self._pdev, text)

    def warn(self, text: str) -> None:
        """Something odd that is put up with."""
        if self._wanted(LogMask.WARN):
            dev_warn(self._pdev, text)

    def info(self, text: str) -> None:
        """What happens."""
        if self._wanted(LogMask.INFO):
            dev_info(self._pdev, text)

    def debug(self, text: str) -> None:
        """Details."""
        if self._wanted(LogMask.DEBUG):
            dev_dbg(self._pdev, text)
