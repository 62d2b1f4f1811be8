# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""BAR0: enable, disable, NVM subsystem reset, and the wait for the controller to follow (spec 01 §2, §4)."""

from __future__ import annotations

import errno
from typing import Final, cast

import numpy as np

from ihsm_abi.registers import GONE, NSSR_MAGIC, Cap, Cc, Csts, Register
from ihsm_kmod.hsm.logs import Log
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.io import IoMem, readl, readq, writel, writeq
from ihsm_kmod.kernel.jiffies import jiffies, msecs_to_jiffies, time_after
from ihsm_kmod.kernel.sched import cond_resched

ADMIN_SLOTS: Final = 16
AQA_VALUE: Final = (ADMIN_SLOTS - 1) << 16 | ADMIN_SLOTS - 1
"""The driver takes both halves for 16 bits wide (spec 01 §2.1)."""
TIMEOUT_UNIT_MS: Final = 500
"""Of CAP.TO."""


class Registers:
    """The register page, each access of the width and in the order of the specification."""

    def __init__(self, iomem: IoMem, log: Log) -> None:
        """Work on the mapped BAR0."""
        self._iomem = iomem
        self._log = log

    def remap(self, iomem: IoMem | None) -> None:
        """Change the register pointer; None is what nobody may follow."""
        self._iomem = cast(IoMem, iomem)

    def status(self) -> Csts:
        """Read CSTS."""
        return Csts(readl(self._iomem, Register.CSTS))

    def wait_ready(self, target: bool) -> None:
        """Wait until CSTS.RDY is `target`: a busy loop, without a pause between two reads (spec 01 §4.1).

        Raises:
            Errno: ENODEV all registers read ones, EFAULT the controller has failed, ETIMEDOUT.
        """
        cap = Cap(readq(self._iomem, Register.CAP))
        deadline = jiffies() + msecs_to_jiffies((cap.to + 1) * TIMEOUT_UNIT_MS)
        while True:
            status = self.status()
            if status == GONE:
                raise Errno(errno.ENODEV, "the device is gone")
            # CFS says nothing while RDY differs.
            if status.rdy == target:
                if status.cfs:
                    raise Errno(errno.EFAULT, "controller fatal status")
                self._log.err(f"controller {'enabled' if target else 'disabled'}")
                return
            if time_after(jiffies(), deadline):
                raise Errno(errno.ETIMEDOUT, f"CSTS.RDY did not become {int(target)}")
            cond_resched()

    def disable(self) -> None:
        """Clear CC.EN, wait for RDY 0 (spec 01 §4.2); errors as of `wait_ready`."""
        self._clear_enable()
        self.wait_ready(False)

    def _clear_enable(self) -> None:
        cc = Cc(readl(self._iomem, Register.CC))
        writel(cc & ~Cc.of(en=1), self._iomem, Register.CC)

    def enable(self, asq: int, acq: int, *, en_stays: bool) -> None:
        """Start the controller with admin rings at these addresses (spec 01 §4.3); errors as of `wait_ready`.

        With `en_stays` a controller that does not follow is left with CC.EN set.
        """
        status, cc = self.status(), Cc(readl(self._iomem, Register.CC))
        self._log.err(f"CSTS {status:#x}, CC {cc:#x}")
        if status.rdy or cc.en:
            self.disable()
        readl(self._iomem, Register.AQA)
        writel(AQA_VALUE, self._iomem, Register.AQA)
        writeq(asq, self._iomem, Register.ASQ)
        writeq(acq, self._iomem, Register.ACQ)
        cc = Cc(readl(self._iomem, Register.CC))
        writel(cc | Cc.of(en=1), self._iomem, Register.CC)
        try:
            self.wait_ready(True)
        except Errno:
            if not en_stays:
                self._clear_enable()
            raise
        self._log.info(f"interface version {readl(self._iomem, Register.VS):#x}")

    def set_entry_sizes(self, identity: np.void) -> None:
        """Tell the controller the entry sizes it asked for (spec 01 §4.4); EN stays 1, so this is no new enable."""
        cc = Cc(readl(self._iomem, Register.CC))
        cc = cc.replace(
            cp_iosqes=int(identity["cp_sqes"]) & 0xF,
            cp_iocqes=int(identity["cp_cqes"]) & 0xF,
            fp_iosqes=int(identity["fp_sqes"]) & 0xF,
            fp_iocqes=int(identity["fp_cqes"]) & 0xF,
        )
        writel(cc, self._iomem, Register.CC)

    def subsystem_reset(self) -> None:
        """NSSR, wait for RDY 0 (spec 01 §4.5); errors as of `wait_ready`."""
        writel(NSSR_MAGIC, self._iomem, Register.NSSR)
        self.wait_ready(False)
