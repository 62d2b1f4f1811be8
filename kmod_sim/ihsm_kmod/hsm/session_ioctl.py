# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The session ioctl: an HSM command of an open file (spec 02 A.6).

The checks stand in the order of the table there, each with its number. On success the answer of the device is given
back whatever its status: the ioctl returns 0, and the caller has to look at `status`.
"""

from __future__ import annotations

import contextlib
import errno
from typing import Any, Final

from ihsm_abi.admin import Psf
from ihsm_abi.entries import RecordCodec
from ihsm_abi.hsm_queue import ControlKind, SessionControl
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
from ihsm_kmod.hsm.hsm_command import SQE, command_entry
from ihsm_kmod.hsm.rings import HSM_FORMAT
from ihsm_kmod.hsm.sessions import OpenFile, track_session
from ihsm_kmod.hsm.user_memory import UserBuffer
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import access_ok, copy_from_user, copy_to_user

_COMMAND: Final = RecordCodec(GENERIC_IOCTL)
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
        asked, answer = _COMMAND.unpack(buffer.data), buffer.fields
        _check_command(controller, asked, answer)
        answer["out_ctxt"] = asked.ctxt
        _run(controller, pool, file, asked, answer)
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


def _refusal(answer: Any, status: int, code: int = errno.EINVAL) -> Errno:
    """Note why in the answer; the error to raise."""
    answer["extended_status"] = status
    return Errno(code, f"extended status {status:#x}")


def _check_command(controller: Controller, asked: Any, answer: Any) -> None:
    """Checks 4 to 12, on the controller and on the numbers of the command."""
    if controller.abort_in_progress:
        raise _refusal(answer, AbortExtendedStatus.ABORT_IN_PROGRESS, errno.EAGAIN)
    if controller.state is not ControllerState.READY:
        raise _refusal(answer, CpStatus.DEVICE_ERROR, errno.EAGAIN)
    if asked.cmdset != SESSION_CMDSET:
        raise _refusal(answer, CpStatus.INVALID_CMDSET)
    if asked.src_length > MAX_SRC_LENGTH:
        raise _refusal(answer, CpStatus.INPUT_BUFFER_ABOVE_8K)
    if asked.dst_length > MAX_DST_LENGTH:
        raise _refusal(answer, CpStatus.OUTPUT_BUFFER_ABOVE_8K)
    if (asked.src_length == 0) != (asked.src_buf == 0):  # 9, 10
        raise _refusal(answer, CpStatus.INVALID_INPUT_BUFFER)
    if (asked.dst_length == 0) != (asked.dst_buf == 0):  # 11, 12
        raise _refusal(answer, CpStatus.INVALID_OUTPUT_BUFFER)


def _check_session(file: OpenFile, asked: Any, answer: Any) -> None:
    """Checks 13 to 15, on the file's session."""
    control = SessionControl(asked.session_control_flags)
    if control.kind in (ControlKind.CLOSE, ControlKind.IN_SESSION):
        slot = file.session
        if slot is None:
            raise _refusal(answer, CpStatus.NO_EXISTING_SESSION)
        if not control.id_valid or asked.session_id != slot.id:
            raise _refusal(answer, CpStatus.SESSION_ID_MISMATCH)
    if control.kind == ControlKind.OPEN and file.free_slot is None:
        raise _refusal(answer, CpStatus.OPEN_SESSION_SESSION_LIMIT_REACHED)


def _run(controller: Controller, pool: PagePool, file: OpenFile, asked: Any, answer: Any) -> None:
    """Checks 13 to 20, and the command."""
    opening = SessionControl(asked.session_control_flags).kind == ControlKind.OPEN
    # Until the slot is taken: of two that open, the second finds it so.
    with file.lock if opening and not controller.quirks.slot_check_unlocked else contextlib.nullcontext():
        _check_session(file, asked, answer)
        if not access_ok(asked.src_buf, asked.src_length):
            raise _refusal(answer, CpStatus.INVALID_INPUT_BUFFER)  # 16
        if not access_ok(asked.dst_buf, asked.dst_length):
            raise _refusal(answer, CpStatus.INVALID_OUTPUT_BUFFER)  # 16
        pages = _pages_with_request(controller, pool, asked, answer)
        try:
            _execute(controller, file, asked, answer, pages)
        finally:
            pages.free()


def _pages_with_request(controller: Controller, pool: PagePool, asked: Any, answer: Any) -> BouncePages:
    """17 and 18: bounce pages, the caller's request in them."""
    src_length, dst_length = asked.src_length, asked.dst_length
    try:
        pages = pool.bounce(src_length, dst_length, double_free=controller.quirks.source_pages_freed_twice)
    except Errno:
        raise _refusal(answer, CpStatus.NO_MEMORY, errno.ENOMEM) from None
    try:
        pages.write(copy_from_user(asked.src_buf, src_length))
    except Errno:
        pages.abandon()
        raise _refusal(answer, CpStatus.INVALID_INPUT_BUFFER) from None
    return pages


def _execute(controller: Controller, file: OpenFile, asked: Any, answer: Any, pages: BouncePages) -> None:
    """19 and 20: the command goes to the device; the answer, and what it means for the file's session."""
    slot = file.session
    entry = command_entry(asked, pages, slot.id if slot is not None else NO_SESSION_ID)
    outcome = controller.execute(controller.hsm_pool, entry)
    if outcome.error:
        raise _refusal(answer, ABORT_STATUS.get(outcome.code, asked.extended_status), outcome.error)
    assert outcome.cqe is not None, "a command without an error has a completion"
    cqe = HSM_FORMAT.completion.unpack(outcome.cqe)
    answer["status"] = Psf(cqe.psf).sc
    track_session(file, SQE.unpack(entry), cqe, controller.log)
    count = min(cqe.byte_count, asked.dst_length)
    answer["byte_count"] = count
    if copy_to_user(asked.dst_buf, pages.read(count)):
        answer["byte_count"] = 0
        raise _refusal(answer, CpStatus.INVALID_OUTPUT_BUFFER)
