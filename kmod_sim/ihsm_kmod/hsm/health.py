# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The health monitor: looks at CSTS every 6 s, and has a failed controller recovered (spec 01 §8.4)."""

from __future__ import annotations

from typing import Final

from ihsm_abi.uapi import AbortType
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.jiffies import msecs_to_jiffies
from ihsm_kmod.kernel.workqueue import DelayedWork, cancel_delayed_work_sync, schedule_delayed_work

PERIOD_MS: Final = 6000


class HealthMonitor:
    """Runs from a successful probe to the removal, through level-2 aborts."""

    def __init__(self, controller: Controller) -> None:
        """Watch this controller; nothing runs yet."""
        self._controller = controller
        self._work = DelayedWork(self._look)

    def start(self) -> None:
        """Look for the first time in 6 s."""
        schedule_delayed_work(self._work, msecs_to_jiffies(PERIOD_MS))

    def stop(self) -> None:
        """Do not look any more; waits for a look under way."""
        cancel_delayed_work_sync(self._work)

    def _look(self) -> None:
        # CSTS of a device that is gone has all bits set, CFS too: the recovery finds that out.
        if self._controller.registers.status().cfs and not self._recovered():
            self._controller.log.err("recovery failed: the controller is not watched any more")
            if self._controller.quirks.monitor_ends_after_failed_recovery:
                return
        self.start()

    def _recovered(self) -> bool:
        self._controller.log.err("controller fatal status")
        try:
            return self._controller.abort(AbortType.TIMEOUT, crash=True) == 0
        except Errno:
            return False
