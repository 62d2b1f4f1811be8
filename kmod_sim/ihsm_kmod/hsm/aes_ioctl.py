# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The AES ioctls: an AES-GCM or AES-XTS command of an open file (spec 02 A.7).

The checks stand in the order of the table there, each with its number. Once they have passed, what the ioctl returns
says only whether the answer could be copied back.
"""

from __future__ import annotations

import errno
from typing import Any, NoReturn

from ihsm_abi.aes_queue import DATA_UNIT_BYTES, FRAME_TYPE_AES, GCM_AAD_ALIGNMENT_BYTES, Cipher
from ihsm_abi.uapi import (
    GCM_IOCTL,
    IOCTL_HEADER,
    XTS_IOCTL,
    AbortExtendedStatus,
    AesOp,
    ControllerState,
    FpStatus,
)
from ihsm_kmod.hsm.aes_command import run_aes_command, workaround_is_active
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.sessions import OpenFile
from ihsm_kmod.hsm.user_memory import UserBuffer
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import access_ok

BYTE_COUNT_STAYS = (FpStatus.DEVICE_NO_FP_QUEUES, FpStatus.NO_VALID_SESSION_ID)
"""Refusals that leave the caller's `byte_count`; all others write 0."""


def aes_ioctl(controller: Controller, file: OpenFile, cipher: Cipher, argument: int) -> int:
    """Carry out the `GCM_IOCTL` or `XTS_IOCTL` at user address `argument`.

    Returns the number of bytes that could not be copied back: 0 is success, of the copying. `Errno` for what the checks
    refuse.
    """
    buffer = UserBuffer(argument, GCM_IOCTL if cipher is Cipher.GCM else XTS_IOCTL)
    _read(buffer)
    try:
        _check(controller, file, cipher, buffer.fields)
    except Errno:
        if buffer.write_back():
            raise Errno(errno.EFAULT, "the answer cannot be written") from None
        raise
    failure = run_aes_command(controller, cipher, buffer)
    uncopied = buffer.write_back()
    if controller.quirks.aes_returns_uncopied:
        return uncopied
    if uncopied:
        raise Errno(errno.EFAULT, "the answer cannot be written")
    if failure:
        raise Errno(failure, f"extended status {buffer.fields['extended_status']:#x}")
    return 0


def _read(buffer: UserBuffer) -> None:
    """Check 1; nothing is copied back."""
    try:
        buffer.read(IOCTL_HEADER.itemsize)
        if buffer.fields["hdr"]["szioctldata"] < len(buffer.data):
            raise Errno(errno.EINVAL, "1: structure too small")
        buffer.read()
    except Errno:
        raise Errno(errno.EINVAL, "1: no header, or not the whole structure") from None


def _refuse(request: Any, status: int, code: int = errno.EINVAL) -> NoReturn:
    """Note why in the answer, and raise the error."""
    request["extended_status"] = status
    if status not in BYTE_COUNT_STAYS:
        request["byte_count"] = 0
    raise Errno(code, f"extended status {status:#x}")


def _check(controller: Controller, file: OpenFile, cipher: Cipher, request: Any) -> None:
    """Checks 2 to 17."""
    if controller.abort_in_progress:
        _refuse(request, AbortExtendedStatus.ABORT_IN_PROGRESS, errno.EAGAIN)
    if controller.state is not ControllerState.READY:
        _refuse(request, FpStatus.DEVICE_ERROR, errno.EAGAIN)
    # No queues is noted first, and gives way to whatever else is wrong with the caller.
    failure = FpStatus.DEVICE_NO_FP_QUEUES if not controller.aes_pool.count else None
    failure = _session_failure(file, cipher, request) or failure
    if failure:
        _refuse(request, failure)
    if _cipher_failure(controller, cipher, request):
        is_gcm = cipher is Cipher.GCM
        _refuse(
            request,
            FpStatus.AES_GCM_IOCTL_VALIDATION_FAILED if is_gcm else FpStatus.AES_XTS_IOCTL_VALIDATION_FAILED,
        )
    # The ranges are looked at whatever is wrong with the rest, and have the last word.
    failure = _buffer_failure(request)
    if not access_ok(int(request["src_ptr"]), int(request["src_len"])):
        failure = FpStatus.INVALID_INPUT_BUFFER
    elif not access_ok(int(request["dst_ptr"]), int(request["dst_len"])):
        failure = FpStatus.INVALID_OUTPUT_BUFFER
    if failure:
        _refuse(request, failure)


def _session_failure(file: OpenFile, cipher: Cipher, request: Any) -> FpStatus | None:
    """Checks 5 to 11: the first that fails."""
    slot = file.session
    if slot is None:
        return FpStatus.NO_VALID_SESSION_ID
    if not slot.short_app_id_is_valid:
        return FpStatus.NO_VALID_SHORT_APP_ID
    if request["session_id"] != slot.id:
        return FpStatus.SESSION_ID_DOES_NOT_MATCH
    if request["short_app_id"] != slot.short_app_id:
        return FpStatus.SHORTAPP_ID_DOES_NOT_MATCH
    if request["op_code"] > max(AesOp):
        return FpStatus.INVALID_OPCODE
    if request["cipher"] != cipher:  # 10 and 11 say the same
        return FpStatus.INVALID_CIPHER_TYPE
    return None


def _cipher_failure(controller: Controller, cipher: Cipher, request: Any) -> bool:
    """Checks 12: whether one fails."""
    if cipher is Cipher.XTS:
        return _xts_failure(request)
    return _gcm_failure(controller, request)


def _xts_failure(request: Any) -> bool:
    src_len, code = int(request["src_len"]), int(request["data_unit_len"])
    if request["dst_len"] < src_len or (code and code not in DATA_UNIT_BYTES):
        return True
    unit = DATA_UNIT_BYTES.get(code, src_len)
    return not unit or src_len % unit != 0


def _gcm_failure(controller: Controller, request: Any) -> bool:
    src_len, dst_len = int(request["src_len"]), int(request["dst_len"])
    actual, aligned = int(request["actual_aad_data_len"]), int(request["aligned_aad_len"])
    if actual >= src_len:
        return True
    is_active = workaround_is_active(controller, Cipher.GCM, request)
    if is_active and (aligned < actual or aligned % GCM_AAD_ALIGNMENT_BYTES):
        return True
    if controller.quirks.tail_at_source_offset:
        return dst_len < src_len - actual
    return dst_len < src_len  # as long as the device will make it, with room for the AAD


def _buffer_failure(request: Any) -> FpStatus | None:
    """Checks 13 to 15: the first that fails."""
    if request["frame_type"] != FRAME_TYPE_AES:
        return FpStatus.INVALID_FRAME_TYPE
    if not request["src_ptr"] or not request["src_len"]:
        return FpStatus.INVALID_INPUT_BUFFER
    if not request["dst_ptr"] or not request["dst_len"]:
        return FpStatus.INVALID_OUTPUT_BUFFER
    return None
