# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""One command of user space from submission to its end, good or bad (spec 01 §5.1, §8.1, 02 A.8)."""

from __future__ import annotations

import errno
from typing import NamedTuple, cast

from ihsm_abi.admin import Psf
from ihsm_abi.uapi import AbortType, ControllerState, InternalCode
from ihsm_kmod.hsm import abort
from ihsm_kmod.hsm.lifecycle import Lifecycle
from ihsm_kmod.hsm.queue import IoQueue
from ihsm_kmod.hsm.queue_pool import QueuePool
from ihsm_kmod.hsm.rings import AES_FORMAT, QueueFormat
from ihsm_kmod.hsm.tags import Command
from ihsm_kmod.kernel.completion import wait_for_completion_timeout
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.jiffies import ktime_get_ns, msecs_to_jiffies


class Outcome(NamedTuple):
    """How a command ended."""

    code: InternalCode
    cqe: bytes | None
    """The completion; there can be one though the command failed: it came when the abort had begun (spec 02 A.7)."""
    error: int
    """0, or the errno for the caller."""


def execute(controller: Lifecycle, pool: QueuePool, sqe: bytearray) -> Outcome:
    """Select a queue, fill in the command id, submit, wait; on a timeout, abort."""
    if controller.abort_in_progress:
        return Outcome(InternalCode.ABORT_IN_PROGRESS, None, errno.EAGAIN)
    # Of HSM commands alone: an AES command has been checked by its ioctl, and never again (02 A.8).
    if pool is controller.hsm_pool and controller.state is not ControllerState.READY:
        return Outcome(InternalCode.CTRL_NOT_READY, None, errno.EAGAIN)
    queue = pool.select()
    if queue is None:
        if not controller.quirks.null_queue:
            return Outcome(InternalCode.QSELECT_FAILED, None, errno.EAGAIN)
        queue = cast("IoQueue", queue)  # and follow it
    command = Command()
    queue.perf.submit()
    controller.counters.add("total_submissions")
    begun_ns = ktime_get_ns()
    try:
        queue.submit(sqe, command)
    except Errno as error:
        return Outcome(command.code, None, error.errno)
    timeout = msecs_to_jiffies(controller.module.abort_timeout_in_sec * 1000)
    if not wait_for_completion_timeout(command.done, timeout):
        _time_out(controller, queue, command)
        if command.code is not InternalCode.SUCCESS or controller.quirks.late_answer_is_no_answer:
            return Outcome(command.code, command.cqe, errno.EAGAIN)
    if command.code is not InternalCode.SUCCESS:
        return Outcome(command.code, None, errno.EAGAIN)
    assert command.cqe is not None
    _count(controller, queue, command.cqe, ktime_get_ns() - begun_ns)
    return Outcome(command.code, command.cqe, 0)


def _time_out(controller: Lifecycle, queue: IoQueue, command: Command) -> None:
    """Recover from a command without answer (spec 01 §8.1)."""
    queue.perf.add("timed_out")
    controller.log.err(f"queue {queue.id}: command {command.tag} timed out")
    try:
        failed = abort.abort(controller, AbortType.TIMEOUT, queue, command)
    except Errno as error:
        failed = error.errno
    if failed:
        queue.forget(command)


def _count(controller: Lifecycle, queue: IoQueue, cqe: bytes, elapsed_ns: int) -> None:
    """Statistics of a completion (spec 02 A.2)."""
    queue.perf.complete(elapsed_ns, divides_by_zero=controller.quirks.late_completion_divides)
    controller.counters.add("total_completions")
    if _failed(queue.form, cqe):
        queue.perf.add("in_error")
        controller.counters.add("total_error_completions")


def _failed(form: QueueFormat, cqe: bytes) -> bool:
    psf = Psf(form.completion.unpack(cqe).psf)
    # An AES status has 15 bits, one of the HSM queue 11.
    return bool(psf.status if form is AES_FORMAT else psf.sc)
