# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The reset ioctl: a level-2 abort that a program asks for (spec 02 A.10, 01 §8.5). Whoever has the node open may."""

from __future__ import annotations

import errno

from ihsm_abi.uapi import RESET_DEVICE, AbortStatus, AbortType, ControllerState
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.user_memory import UserBuffer
from ihsm_kmod.kernel.errors import Errno


def reset_ioctl(controller: Controller, argument: int) -> int:
    """Carry out the `RESET_DEVICE` at user address `argument`.

    Returns what the abort returned: 0, or the positive 3 of a level 2 that failed. `Errno` EFAULT, EINVAL, or that of
    the re-initialisation.
    """
    buffer = UserBuffer(argument, RESET_DEVICE)
    buffer.read()
    if buffer.fields["hdr"]["szioctldata"] < RESET_DEVICE.itemsize:
        raise Errno(errno.EINVAL, "structure too small")
    failure, result = None, 0
    try:
        buffer.fields["abort_sts"], result = _reset(controller, int(buffer.fields["abort_type"]))
    except _Refused as refused:
        buffer.fields["abort_sts"], failure = refused.status, refused.error
    buffer.answer()
    if failure is not None:
        raise failure
    return result


class _Refused(Exception):
    def __init__(self, status: AbortStatus, error: Errno) -> None:
        super().__init__(status)
        self.status = status
        self.error = error


def _reset(controller: Controller, abort_type: int) -> tuple[AbortStatus, int]:
    if controller.state is not ControllerState.READY:
        raise _Refused(AbortStatus.INVALID_DEVICE_STATE, Errno(errno.EINVAL, "controller not ready"))
    if abort_type not in (AbortType.L2_NSSR, AbortType.L2_RESET):
        raise _Refused(AbortStatus.INVALID_TYPE, Errno(errno.EINVAL, f"abort type {abort_type}"))
    if controller.abort_in_progress:
        raise _Refused(AbortStatus.ALREADY_IN_PROGRESS, Errno(errno.EINVAL, "abort in progress"))
    try:
        result = controller.abort(AbortType(abort_type))
    except Errno as error:
        raise _Refused(AbortStatus.FAILED, error) from error
    return (AbortStatus.FAILED if result else AbortStatus.SUCCESS), result
