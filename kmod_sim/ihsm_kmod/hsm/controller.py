# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The controller as the user side has it: commands and recovery on top of its life."""

from __future__ import annotations

from ihsm_abi.uapi import AbortType
from ihsm_kmod.hsm import abort, execute
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.hsm.lifecycle import Lifecycle
from ihsm_kmod.hsm.queue_pool import QueuePool


class Controller(Lifecycle):
    """One function that the driver is bound to."""

    def execute(self, pool: QueuePool, sqe: bytearray) -> Outcome:
        """Send a command over a queue of the pool and wait for its end: see `execute.execute`."""
        return execute.execute(self, pool, sqe)

    def abort(self, kind: AbortType, *, crash: bool = False) -> int:
        """Recover, for no command in particular: see `abort.abort`."""
        return abort.abort(self, kind, crash=crash)
