# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The session ioctl: an HSM command of an open file (spec 02 A.6).

The checks stand in the order of the table there, each with its number. On success the answer of the device is given
back whatever its status: the ioctl returns 0, and the caller has to look at `status`.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Any

import numpy as np

from ihsm_abi.admin import Psf
from ihsm_abi.hsm_queue import HSM_CQE, HSM_SQE, ControlKind, SessionControl
from ihsm_abi.uapi import (
    GENERIC_IOCTL,
    IOCTL_HEADER,
    MAX_DST_LENGTH,
    MAX_SRC_LENGTH,
    NO_SESSION_ID,
    SESSION_CMDSET,
    AbortExtendedStatus,
    ControllerState,
    CpStatus,
    InternalCode,
)
from ihsm_kmod.hsm.bounce import BouncePages, PagePool
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.hsm_command import command_entry
from ihsm_kmod.hsm.sessions import OpenFile, track_session
from ihsm_kmod.hsm.user_memory import UserBuffer
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import access_ok, copy_from_user, copy_to_user

ABORT_STATUS = {
    InternalCode.ABORTED: AbortExtendedStatus.CMD_ABORTED,
    InternalCode.QDISABLED: AbortExtendedStatus.CMD_ABORTED,
    InternalCode.ABORT_IN_PROGRESS: AbortExtendedStatus.ABORT_IN_PROGRESS,
    InternalCode.QSELECT_FAILED: AbortExtendedStatus.DEVICE_ERROR,
    InternalCode.CTRL_NOT_READY: AbortExtendedStatus.DEVICE_ERROR,
}
"""Extended status of a command that the driver could not finish (A.8); the codes that are missing change none."""


def session_ioctl(controller: Controller, pool: PagePool, file: OpenFile, argument: int) -> int:
    """Carry out the `GENERIC_IOCTL` at user address `argument`; returns 0, `Errno` as the table says."""
    buffer = UserBuffer(argument, GENERIC_IOCTL)
    try:
        _check_size(argument)
    except Errno:
        # The driver's copy is still zero, and goes back like any other: over 112 bytes of the caller's (quirk 4).
        if controller.quirks.short_header_wipes and buffer.write_back():
            raise Errno(errno.EFAULT, "1, 2: nor can the answer be written") from None
        raise
    buffer.read()  # 3: what cannot be read cannot be answered either, so that EFAULT is all there is to say
    failure = None
    try:
        _check_command(controller, buffer.fields)
        buffer.fields["out_ctxt"] = buffer.fields["ctxt"]
        _run(controller, pool, file, buffer.fields)
    except Errno as error:
        failure = error
    if buffer.write_back():
        raise Errno(errno.EFAULT, "21: the answer cannot be written")
    if failure is not None:
        raise failure
    return 0


def _check_size(argument: int) -> None:
    """Checks 1 and 2."""
    header = UserBuffer(argument, IOCTL_HEADER)
    try:
        header.read()
    except Errno:
        raise Errno(errno.EINVAL, "1: no header") from None
    if header.fields["szioctldata"] < GENERIC_IOCTL.itemsize:
        raise Errno(errno.EINVAL, "2: structure too small")


def _refusal(command: Any, status: int, code: int = errno.EINVAL) -> Errno:
    """Note why in the answer; the error to raise."""
    command["extended_status"] = status
    return Errno(code, f"extended status {status:#x}")


def _check_command(controller: Controller, command: Any) -> None:
    """Checks 4 to 12, on the controller and on the numbers of the command."""
    if controller.abort_in_progress:
        raise _refusal(command, AbortExtendedStatus.ABORT_IN_PROGRESS, errno.EAGAIN)
    if controller.state is not ControllerState.READY:
        raise _refusal(command, CpStatus.DEVICE_ERROR, errno.EAGAIN)
    if command["cmdset"] != SESSION_CMDSET:
        raise _refusal(command, CpStatus.INVALID_CMDSET)
    if command["src_length"] > MAX_SRC_LENGTH:
        raise _refusal(command, CpStatus.INPUT_BUFFER_ABOVE_8K)
    if command["dst_length"] > MAX_DST_LENGTH:
        raise _refusal(command, CpStatus.OUTPUT_BUFFER_ABOVE_8K)
    if (command["src_length"] == 0) != (command["src_buf"] == 0):  # 9, 10
        raise _refusal(command, CpStatus.INVALID_INPUT_BUFFER)
    if (command["dst_length"] == 0) != (command["dst_buf"] == 0):  # 11, 12
        raise _refusal(command, CpStatus.INVALID_OUTPUT_BUFFER)


def _check_session(file: OpenFile, command: Any) -> None:
    """Checks 13 to 15, on the file's session."""
    asked = SessionControl(command["session_control_flags"])
    if asked.kind in (ControlKind.CLOSE, ControlKind.IN_SESSION):
        slot = file.session
        if slot is None:
            raise _refusal(command, CpStatus.NO_EXISTING_SESSION)
        if not asked.id_valid or command["session_id"] != slot.id:
            raise _refusal(command, CpStatus.SESSION_ID_MISMATCH)
    if asked.kind == ControlKind.OPEN and file.free_slot is None:
        raise _refusal(command, CpStatus.OPEN_SESSION_SESSION_LIMIT_REACHED)


def _run(controller: Controller, pool: PagePool, file: OpenFile, command: Any) -> None:
    """Checks 13 to 20, and the command."""
    opening = SessionControl(command["session_control_flags"]).kind == ControlKind.OPEN
    with contextlib.ExitStack() as held:
        if opening and not controller.quirks.slot_check_unlocked:
            held.enter_context(file.lock)  # until the slot is taken: of two that open, the second finds it so
        _check_session(file, command)
        if not access_ok(int(command["src_buf"]), int(command["src_length"])):
            raise _refusal(command, CpStatus.INVALID_INPUT_BUFFER)  # 16
        if not access_ok(int(command["dst_buf"]), int(command["dst_length"])):
            raise _refusal(command, CpStatus.INVALID_OUTPUT_BUFFER)  # 16
        pages = _pages_with_request(controller, pool, command)
        try:
            _execute(controller, file, command, pages)
        finally:
            pages.free()


def _pages_with_request(controller: Controller, pool: PagePool, command: Any) -> BouncePages:
    """17 and 18: bounce pages, the caller's request in them."""
    src_length, dst_length = int(command["src_length"]), int(command["dst_length"])
    try:
        pages = pool.bounce(src_length, dst_length, double_free=controller.quirks.source_pages_freed_twice)
    except Errno:
        raise _refusal(command, CpStatus.NO_MEMORY, errno.ENOMEM) from None
    try:
        pages.write(copy_from_user(int(command["src_buf"]), src_length))
    except Errno:
        pages.abandon()
        raise _refusal(command, CpStatus.INVALID_INPUT_BUFFER) from None
    return pages


def _execute(controller: Controller, file: OpenFile, command: Any, pages: BouncePages) -> None:
    """19 and 20: the command goes to the device; the answer, and what it means for the file's session."""
    slot = file.session
    entry = command_entry(command, pages, slot.id if slot is not None else NO_SESSION_ID)
    outcome = controller.execute(controller.hsm_pool, entry)
    if outcome.error:
        raise _refusal(command, ABORT_STATUS.get(outcome.code, int(command["extended_status"])), outcome.error)
    assert outcome.cqe is not None, "a command without an error has a completion"
    cqe = np.frombuffer(outcome.cqe, HSM_CQE)[0]
    command["status"] = Psf(cqe["psf"]).sc
    track_session(file, np.frombuffer(entry, HSM_SQE)[0], cqe, controller.log)
    command["byte_count"] = min(int(cqe["byte_count"]), int(command["dst_length"]))
    if copy_to_user(int(command["dst_buf"]), pages.read(int(command["byte_count"]))):
        command["byte_count"] = 0
        raise _refusal(command, CpStatus.INVALID_OUTPUT_BUFFER)
