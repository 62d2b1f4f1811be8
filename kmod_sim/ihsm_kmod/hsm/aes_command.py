# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""An AES command that has passed its checks: tail, lists, queue entry, completion (spec 02 A.7, C).

The tail: where firmware can, and the caller wants it, the last 1 to 15 bytes of a GCM command that do not fill a block
travel in a buffer of their own (C.6), for the engine takes whole blocks alone.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from typing import Any

import numpy as np

from ihsm_abi.admin import Psf
from ihsm_abi.aes_queue import (
    AES_BLOCK_BYTES,
    AES_CQE,
    CMD_TYPE_FAST_PATH,
    GCM_SQE,
    TAIL_MAX_BYTES,
    XTS_SQE,
    AesAttr,
    Cipher,
)
from ihsm_abi.uapi import AbortExtendedStatus, AesOp, FpStatus, InternalCode, StatusSource, composite
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.hsm.sgl import UserSgl
from ihsm_kmod.hsm.user_memory import UserBuffer
from ihsm_kmod.kernel.dma import DMA_FROM_DEVICE, DMA_TO_DEVICE, dma_alloc_coherent, dma_free_coherent
from ihsm_kmod.kernel.dma_debug import DmaMemory
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import copy_from_user, copy_to_user

U32 = 0xFFFF_FFFF
INPUT = ("src_ptr", "src_len", "dst_ptr", "dst_len")
COMPOSITE_STATUS = {
    InternalCode.ABORTED: AbortExtendedStatus.CMD_ABORTED,
    InternalCode.QDISABLED: AbortExtendedStatus.CMD_ABORTED,
    InternalCode.ABORT_IN_PROGRESS: AbortExtendedStatus.ABORT_IN_PROGRESS,
    InternalCode.QSELECT_FAILED: composite(StatusSource.ABORT, FpStatus.DEVICE_ERROR),
}
"""What the driver works out for a command that did not complete, before it writes the code itself over it (A.8)."""


def workaround_is_active(controller: Controller, cipher: Cipher, request: Any) -> bool:
    """Whether the tail of this command goes its own way: firmware can, the cipher is GCM, the caller wants it (C.6)."""
    return controller.gcm_workaround and cipher is Cipher.GCM and bool(request["enable_gcm_workaround"])


@dataclass(frozen=True)
class Asked:
    """What the caller gave: the driver works with its fields while the command is under way."""

    src_ptr: int
    src_len: int
    dst_ptr: int
    dst_len: int

    @classmethod
    def of(cls, request: Any) -> Asked:
        """As it is in the request now."""
        return cls(*(int(request[name]) for name in INPUT))

    def restore(self, request: Any) -> None:
        """Put it back."""
        for name in INPUT:
            request[name] = getattr(self, name)


class _Failed(Errno):
    """The command was not sent; `errno` is what the ioctl would return if it told."""


def run_aes_command(controller: Controller, cipher: Cipher, buffer: UserBuffer) -> int:
    """Carry it out, the answer in the buffer's fields.

    Returns the errno meant for the caller, 0 if the device has answered, be it with an error.
    """
    request = buffer.fields
    asked = Asked.of(request)
    command = AesCommand(controller, cipher, request)
    try:
        with contextlib.ExitStack() as lent:
            command.prepare(lent)
            outcome = controller.execute(controller.aes_pool, command.entry())
            if not outcome.error:
                # The tail is needed after the lists were taken back, which brings the device's data to the caller.
                tail = command.tail.view.tobytes() if command.tail else b""
    except _Failed as failure:
        request["extended_status"] = FpStatus.NO_MEMORY
        _restore(controller, asked, request)
        return failure.errno
    if outcome.error:
        _report_unfinished(controller, request, outcome)
        _restore(controller, asked, request)
        return outcome.error
    asked.restore(request)
    assert outcome.cqe is not None, "a command without an error has a completion"
    complete(cipher, request, asked, tail, outcome.cqe)
    return 0


def _restore(controller: Controller, asked: Asked, request: Any) -> None:
    """After a failure the caller sees what the driver has made of its input."""
    if not controller.quirks.aes_returns_trimmed_input:
        asked.restore(request)


def _report_unfinished(controller: Controller, request: Any, outcome: Outcome) -> None:
    """Extended status of a command that was aborted, or never submitted (A.8)."""
    request["byte_count"] = 0
    if controller.quirks.aes_shows_internal_code:
        request["extended_status"] = outcome.code
    else:
        request["extended_status"] = COMPOSITE_STATUS.get(outcome.code, int(request["extended_status"]))


class AesCommand:
    """A command on its way to the device."""

    def __init__(self, controller: Controller, cipher: Cipher, request: Any) -> None:
        """`request` is a `GCM_IOCTL` or an `XTS_IOCTL`; its input fields are changed by `prepare`."""
        self._controller = controller
        self._cipher = cipher
        self._request = request
        self.tail: DmaMemory | None = None
        self._source: UserSgl | None = None
        self._destination: UserSgl | None = None

    def prepare(self, lent: contextlib.ExitStack) -> None:
        """Tail buffer, then source, then destination; `lent` gives them back.

        Raises:
            _Failed: one is not to be had.
        """
        request, pdev = self._request, self._controller.pdev
        if workaround_is_active(self._controller, self._cipher, request):
            self._split_tail(lent)
        if not request["src_len"] or not request["dst_len"]:  # all of it is in the tail
            request["src_ptr"] = request["dst_ptr"] = 0
            return
        try:
            self._source = UserSgl(pdev, int(request["src_ptr"]), int(request["src_len"]), DMA_TO_DEVICE)
        except Errno as error:
            raise _Failed(errno.EIO, str(error)) from None
        lent.callback(self._source.close)
        try:
            self._destination = UserSgl(pdev, int(request["dst_ptr"]), int(request["dst_len"]), DMA_FROM_DEVICE)
        except Errno as error:
            raise _Failed(error.errno, str(error)) from None
        lent.callback(self._destination.close)

    def _split_tail(self, lent: contextlib.ExitStack) -> None:
        """Put the last bytes that fill no block into a buffer of their own, and shorten both lengths by them."""
        request, pdev = self._request, self._controller.pdev
        size = int(request["src_len"]) % AES_BLOCK_BYTES
        if not size:
            return
        try:
            self.tail = dma_alloc_coherent(pdev, size)
        except Errno as error:
            raise _Failed(errno.EIO, str(error)) from None
        lent.callback(dma_free_coherent, pdev, self.tail)
        request["src_len"] -= size
        request["dst_len"] = (int(request["dst_len"]) - size) & U32  # wraps where it is shorter than the tail
        try:
            data = copy_from_user(int(request["src_ptr"]) + int(request["src_len"]), size)
        except Errno as error:
            raise _Failed(errno.EINVAL, str(error)) from None
        self.tail.view[:] = memoryview(data)

    def entry(self) -> bytearray:
        """The SQE (C.1); the queue puts the command id in."""
        request, is_gcm = self._request, self._cipher is Cipher.GCM
        layout = GCM_SQE if is_gcm else XTS_SQE
        entry = bytearray(layout.itemsize)
        sqe = np.frombuffer(entry, layout)[0]
        sqe["attr"] = AesAttr.of(
            decrypt=int(request["op_code"]),
            psdt=1,
            cmd_type=CMD_TYPE_FAST_PATH,
            cipher=self._cipher,
            dul=0 if is_gcm else int(request["data_unit_len"]),
        )
        for name in ("session_id", "short_app_id", "frame_type"):
            sqe[name] = request[name]
        for side, sgl in (("src", self._source), ("dst", self._destination)):
            if sgl is not None:
                sqe[f"{side}_len"], sqe[side] = sgl.length, sgl.descriptor
        if is_gcm:
            self._fill_gcm(sqe)
        else:
            for name in ("key_id1", "key_id2", "tweak"):
                sqe[name] = request[name]
        return entry

    def _fill_gcm(self, sqe: Any) -> None:
        request = self._request
        sqe["key_id"], sqe["tag"], sqe["iv"] = request["key_id"], request["tag"], request["init_vector"]
        sqe["actual_aad_len"], sqe["aligned_aad_len"] = request["actual_aad_data_len"], request["aligned_aad_len"]
        if self.tail is not None:  # the device reads and writes it in the same place
            sqe["tail_src_len"] = sqe["tail_dst_len"] = self.tail.size
            sqe["tail_src_addr"] = sqe["tail_dst_addr"] = self.tail.dma_handle


def complete(cipher: Cipher, request: Any, asked: Asked, tail: bytes, entry: bytes) -> None:
    """What a completion says, into the answer (C.3); `tail` is the tail buffer as the device left it."""
    cqe = np.frombuffer(entry, AES_CQE)[0]
    request["result"] = Psf(cqe["psf"]).status
    request["extended_status"] = cqe["err"]
    request["fips_approved"] = cqe["fips_approved"] != 0
    request["byte_count"] = 0
    if request["result"] or cqe["err"]:
        return
    if not _is_plausible(asked, tail, cqe) or not _copy_tail(asked, tail):
        request["extended_status"] = FpStatus.DEVICE_ERROR
        return
    request["byte_count"] = int(cqe["len"]) + len(tail) & U32
    if cipher is Cipher.GCM and request["op_code"] == AesOp.ENCRYPT:
        request["cmd_spec"], request["iv_from_fw"] = cqe["tag"], cqe["iv"]


def _is_plausible(asked: Asked, tail: bytes, cqe: Any) -> bool:
    """Whether the device has done what it was asked for: no more than fits, and a tail where there is one."""
    done = int(cqe["tail_dst_len"])
    if cqe["len"] > asked.dst_len or bool(tail) != bool(done):
        return False
    return done <= len(tail) and done <= TAIL_MAX_BYTES


def _copy_tail(asked: Asked, tail: bytes) -> bool:
    """Write the tail behind what the device wrote, by the source's length; whether all of it could be written."""
    return copy_to_user(asked.dst_ptr + asked.src_len - len(tail), tail) == 0
