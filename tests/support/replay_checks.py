# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Looks on while a recording is played, and checks every answer by the specification."""

from __future__ import annotations

from typing import Final

import numpy as np

from ihsm.trace.records import RegisterRead
from ihsm.trace.replay import Audience, Played
from ihsm_abi.admin import ADMIN_SQE, Psf
from ihsm_abi.aes_queue import GCM_SQE, XTS_SQE, AesAttr, Cipher
from ihsm_abi.hsm_queue import HSM_SQE, HsmCommandWord
from ihsm_abi.registers import Csts, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from support.admin_model import AdminModel

CONSTANT_REGISTERS: Final = {Register.CAP, Register.VS}
MEMORY: Final = range(1 << 30)
"""Every recorded address lies in it."""


class Checks(Audience):
    """For a device with so many resources."""

    def __init__(self, resources: int) -> None:
        self.model = AdminModel(resources, ctrl_id=1, mapped=MEMORY)
        self.step = "start"

    def began(self, step: str) -> None:
        self.step = step

    def forgotten(self) -> None:
        self.model.forget()

    def read(self, access: RegisterRead, value: int) -> None:
        if access.offset in CONSTANT_REGISTERS:
            return
        expected = access.value
        if access.offset == Register.CSTS:
            expected = Csts(expected).replace(cfs=0)  # the recorded device was told to fail, ours is well
        assert value == expected, f"{self.step}: {access.offset:#x} reads {value:#x}, not {expected:#x}"

    def answered(self, command: Played) -> None:
        context = f"{self.step}: queue {command.queue}, cid {command.cid}"
        sqhd, entries = int(command.cqe["sqhd"]), command.entries
        assert int(command.cqe["sqid"]) == command.queue, context
        assert (sqhd - command.sqhd) % entries <= (command.tail - command.sqhd) % entries, context
        if command.last:
            assert sqhd == command.tail, context
        psf = Psf(command.cqe["psf"])
        if command.queue == ADMIN_QUEUE_ID:
            entry = np.frombuffer(command.sqe, ADMIN_SQE, 1)[0]
            wanted = self.model.answer(*(int(entry[name]) for name in ("opc", "dw10", "dw11", "prp1")))
            assert (psf.status, int(command.cqe["dw0"])) == wanted, context
        elif command.queue >= FIRST_AES_QUEUE_ID:
            assert (psf.status, int(command.cqe["err"])) == aes_error(command.sqe), context
            assert int(command.cqe["len"]) == 0, context
        else:
            assert psf.sc == hsm_status(command.sqe), context


def hsm_status(sqe: bytes) -> int:
    """`sc` that the checks of spec 02 B.7 give."""
    entry = np.frombuffer(sqe, HSM_SQE, 1)[0]
    word = HsmCommandWord(entry["command"])
    if word.psdt:
        return 0xC0
    if word.opc > 1:
        return 0x01
    if word.opc == 1:
        return 0 if entry["control"] & 0x7 == 0x6 else 0x07
    if not 1 <= entry["src_len"] <= 4096:
        return 0xC1
    if not 1 <= entry["dst_len"] <= 8192:
        return 0xC2
    if (entry["src_prp1"] | entry["src_prp2"]) & 0xFFF:
        return 0xC3
    if (entry["dst_prp1"] | entry["dst_prp2"]) & 0xFFF:
        return 0xC4
    return 0x07 if entry["src_len"] > 3584 else 0


def aes_error(sqe: bytes) -> tuple[int, int]:
    """Status and error of an AES command as long as no key exists (spec 01 §14.9, 02 E.3)."""
    gcm, xts = np.frombuffer(sqe, GCM_SQE, 1)[0], np.frombuffer(sqe, XTS_SQE, 1)[0]
    if AesAttr(gcm["attr"]).cipher == Cipher.GCM:
        if gcm["aligned_aad_len"] % 32:
            return 2, 5
        return 2, 1 if gcm["key_id"] > 0xFFFF else 2
    if xts["key_id1"] > 0xFFFF or xts["key_id2"] > 0xFFFF:
        return 1, 1 if xts["key_id1"] > 0xFFFF else 2
    return 1, 5 if xts["key_id1"] == xts["key_id2"] else 3
