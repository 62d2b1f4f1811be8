# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""BAR0 as named registers, and the waits on CSTS (spec 01 §2, §4)."""

from __future__ import annotations

import time
from typing import Final

from ihsm.bus import PciFunction
from ihsm.errors import ControllerFatalError, ControllerLostError, ControllerTimeoutError, DeviceGoneError
from ihsm_abi.pci import Bar
from ihsm_abi.registers import GONE, NSSR_MAGIC, Cap, Cc, Csts, Register, Vs

POLL_INTERVAL_S: Final = 0.0005


class Registers:
    """Controller registers of a function."""

    def __init__(self, function: PciFunction) -> None:
        """Nothing is accessed yet."""
        self._function = function

    def read(self, register: Register) -> int:
        """One access of the register's width."""
        return self._function.read_bar(Bar.REGISTERS, register, register.width)

    def write(self, register: Register, value: int) -> None:
        """One access of the register's width; returns when the device has taken it."""
        self._function.write_bar(Bar.REGISTERS, register, register.width, value)

    @property
    def cap(self) -> Cap:
        """Capabilities."""
        return Cap(self.read(Register.CAP))

    @property
    def vs(self) -> Vs:
        """Version."""
        return Vs(self.read(Register.VS))

    @property
    def cc(self) -> Cc:
        """Configuration."""
        return Cc(self.read(Register.CC))

    @property
    def csts(self) -> Csts:
        """Status.

        Raises:
            DeviceGoneError: all ones.
        """
        value = self.read(Register.CSTS)
        if value == GONE:
            raise DeviceGoneError("CSTS reads all ones: the device has disappeared")
        return Csts(value)

    def check_health(self, admin_sq_iova: int | None = None) -> None:
        """Look whether the device still works for the one who enabled it.

        Args:
            admin_sq_iova: what was written to ASQ; None while the controller is not enabled.

        Raises:
            ControllerFatalError: CFS is set.
            ControllerLostError: enabled no longer, or with another admin queue: it was reset meanwhile.
            DeviceGoneError, BusError: nobody answers.
        """
        csts = self.csts
        if csts.cfs:
            raise ControllerFatalError("the controller reports a fatal status (CSTS.CFS)")
        if admin_sq_iova is None:
            return
        if not csts.rdy or not self.cc.en or self.read(Register.ASQ) != admin_sq_iova:
            raise ControllerLostError(
                f"the controller was reset by somebody else (CC.EN is {self.cc.en}, CSTS.RDY {csts.rdy}): the queues "
                "of this driver are gone"
            )

    def wait_ready(self, target: int) -> None:
        """Wait until CSTS.RDY is `target` (spec 01 §4.1).

        Raises:
            ControllerTimeoutError: not within (CAP.TO + 1) x 500 ms.
            ControllerFatalError: CFS is set when RDY has its target, or still set when the time is over.
        """
        limit_s = self.cap.ready_timeout_s
        deadline = time.monotonic() + limit_s
        while True:
            csts = self.csts
            if csts.rdy == target:
                if csts.cfs:
                    raise ControllerFatalError(f"CSTS.CFS is set while RDY is {target}")
                return
            if time.monotonic() > deadline:
                if csts.cfs:
                    raise ControllerFatalError(f"CSTS.CFS is set and RDY did not become {target}")
                raise ControllerTimeoutError(f"CSTS.RDY did not become {target} within {limit_s:g} s")
            time.sleep(POLL_INTERVAL_S)

    def disable(self) -> None:
        """Clear CC.EN and wait (spec 01 §4.2)."""
        self.write(Register.CC, self.cc.replace(en=0))
        self.wait_ready(0)

    def subsystem_reset(self) -> None:
        """NSSR: all queues and sessions of the function go (spec 01 §4.5); RDY becomes 0, EN stays."""
        self.write(Register.NSSR, NSSR_MAGIC)
        self.wait_ready(0)
