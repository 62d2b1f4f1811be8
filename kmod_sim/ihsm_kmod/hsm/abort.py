# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recovery: level 1 for one queue, level 2 for the controller (spec 01 §8)."""

from __future__ import annotations

import errno
from typing import Final

from ihsm_abi.uapi import AbortResult, AbortType, ControllerState
from ihsm_kmod.hsm.lifecycle import Lifecycle
from ihsm_kmod.hsm.queue import IoQueue
from ihsm_kmod.hsm.tags import Command
from ihsm_kmod.kernel.completion import wait_for_completion_timeout
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.report import ReportKind, warn

GRACE_JIFFIES: Final = 100


def abort(
    controller: Lifecycle,
    kind: AbortType,
    queue: IoQueue | None = None,
    command: Command | None = None,
    *,
    crash: bool = False,
) -> int:
    """Recover the controller, one caller after the other (spec 01 §8.1).

    Args:
        controller: what to recover.
        kind: TIMEOUT: level 1, then level 2 if that fails; else level 2 at once, in the way of the kind.
        queue: the queue of the command.
        command: which has timed out.
        crash: the health monitor has seen CFS.

    Returns:
        0, also if there was nothing to do any more; else an `AbortResult`.

    Raises:
        Errno: the controller could not be initialised again, or EOPNOTSUPP.
    """
    with controller.abort_mutex:
        controller.abort_in_progress = True
        try:
            return _recover(controller, kind, queue, command, crash)
        finally:
            controller.abort_in_progress = False


def _recover(
    controller: Lifecycle, kind: AbortType, queue: IoQueue | None, command: Command | None, crash: bool
) -> int:
    if controller.state is not ControllerState.READY:
        return AbortResult.LEVEL_TWO_FAILED
    if command and wait_for_completion_timeout(command.done, GRACE_JIFFIES):
        # It was late, or somebody else's abort has flushed it while we waited for the mutex.
        return AbortResult.SUCCESS
    try:
        return _by_kind(controller, kind, queue, crash)
    finally:
        if command and not wait_for_completion_timeout(command.done, GRACE_JIFFIES):
            warn(ReportKind.WARN, "a command is not completed after its abort")


def _by_kind(controller: Lifecycle, kind: AbortType, queue: IoQueue | None, crash: bool) -> int:
    """Level 1, level 2 or both."""
    if kind is AbortType.TIMEOUT:
        if level_one(controller, queue, crash=crash) == AbortResult.SUCCESS:
            return AbortResult.SUCCESS
        if not level_two_allowed(controller):
            controller.log.err("level 1 failed and level 2 is off: the controller is unusable")
            controller.state = ControllerState.NOT_INITIALIZED
            return AbortResult.LEVEL_ONE_FAILED
    elif not level_two_allowed(controller):
        if controller.quirks.level_2_off_is_success:
            return AbortResult.SUCCESS
        raise Errno(errno.EOPNOTSUPP, "level 2 is off")
    level_two(controller, kind)
    return AbortResult.SUCCESS


def level_one(controller: Lifecycle, queue: IoQueue | None, *, crash: bool) -> AbortResult:
    """Delete and create one submission queue; its completion queue goes on (spec 01 §8.2)."""
    status = controller.registers.status()
    if crash or status.cfs:
        return AbortResult.LEVEL_ONE_FAILED
    if queue is None:
        return AbortResult.LEVEL_ONE_FAILED
    controller.log.err(f"queue {queue.id}: level-1 abort")
    controller.counters.add("total_lvl1_aborts")
    queue.perf.add("level1_aborts")
    queue.disable()
    try:
        controller.counters.add("num_q_delete_cmds")
        controller.admin().delete_sq(queue.id)
        controller.counters.add("total_cmds_aborted", queue.flush())
        queue.restart()
        queue.create_sq(controller.admin())
    except Errno as error:
        controller.log.err(f"queue {queue.id}: level-1 abort failed: {error}")
        return AbortResult.LEVEL_ONE_FAILED
    queue.disabled = False
    return AbortResult.SUCCESS


def level_two_allowed(controller: Lifecycle) -> bool:
    """A VF may always, a PF by its module parameter (spec 01 §8.3)."""
    return not controller.is_pf or controller.module.pf_lvl2_abort_enabled


def level_two(controller: Lifecycle, kind: AbortType) -> None:
    """Stop the controller, free everything, bring it up again (spec 01 §8.3).

    Callers are let go before the controller is disabled, so it can still write to memory that they have freed.

    Raises:
        Errno: it does not come up again; its state is NOT_INITIALIZED.
    """
    controller.log.err(f"level-2 abort, {kind.name}")
    controller.counters.add("total_lvl2_aborts")
    for pool in (controller.hsm_pool, controller.aes_pool):
        pool.disable()
    for pool in (controller.hsm_pool, controller.aes_pool):
        pool.flush()
    if kind is AbortType.L2_NSSR:
        controller.subsystem_reset()
    else:
        controller.disable()
    controller.release(delete_queues=False, keep_node=True)
    if controller.quirks.registers_null_in_level_2:
        controller.registers.remap(None)
    # From here on callers are told of a controller that is not ready, no more of an abort; in this order, for they look
    # at the abort first.
    controller.state = ControllerState.INIT_IN_PROGRESS
    controller.abort_in_progress = False
    controller.initialize(keep_node=True)
