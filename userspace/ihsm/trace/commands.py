# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the bytes of entries and completions say, as far as whoever looks at all of them needs it (spec 01 §5, §6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ihsm.trace.records import Record, RegisterWrite
from ihsm_abi.admin import ADMIN_CQE, ADMIN_SQE, Psf, QueueDw10
from ihsm_abi.aes_queue import AES_CQE, AES_SQE
from ihsm_abi.entries import reader
from ihsm_abi.hsm_queue import HSM_CQE, HSM_SQE
from ihsm_abi.pci import Bar
from ihsm_abi.registers import NSSR_MAGIC, Cc, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID


@dataclass(frozen=True, slots=True)
class Form:
    """How the entries of a class of queues are laid out."""

    name: str
    sqe: np.dtype[Any]
    cqe: np.dtype[Any]
    cid: str
    """Name of the field with the command id, in both."""


ADMIN_FORM: Final = Form("admin", ADMIN_SQE, ADMIN_CQE, "cid")
HSM_FORM: Final = Form("HSM", HSM_SQE, HSM_CQE, "cid")
AES_FORM: Final = Form("AES", AES_SQE, AES_CQE, "cmd_id")
_ADMIN_FIELDS: Final = reader(ADMIN_SQE, "opc", "cid", "prp1", "dw10", "dw11")
_CIDS: Final = {id(form): reader(form.sqe, form.cid) for form in (ADMIN_FORM, HSM_FORM, AES_FORM)}
_ANSWERS: Final = {
    id(ADMIN_FORM): reader(ADMIN_CQE, "sqhd", "cid", "psf"),
    id(HSM_FORM): reader(HSM_CQE, "sqhd", "cid", "psf"),
    id(AES_FORM): reader(AES_CQE, "cmd_id", "sqhd", "psf"),
}


def form_of(queue: int) -> Form:
    """That of a queue's id."""
    if queue == ADMIN_QUEUE_ID:
        return ADMIN_FORM
    return HSM_FORM if queue < FIRST_AES_QUEUE_ID else AES_FORM


@dataclass(frozen=True, slots=True)
class AdminCommand:
    """Fields of an admin entry."""

    opcode: int
    cid: int
    prp1: int
    dw10: int
    dw11: int

    @property
    def queue(self) -> QueueDw10:
        """dw10 of the commands that create and delete queues."""
        return QueueDw10(self.dw10)


def admin_command(data: bytes) -> AdminCommand | None:
    """An entry of the admin queue; None if it has not the length of one."""
    return AdminCommand(*_ADMIN_FIELDS.unpack(data)) if len(data) == ADMIN_SQE.itemsize else None


def command_id(queue: int, data: bytes) -> int | None:
    """Command id of an entry; None if it has not the length of one."""
    form = form_of(queue)
    return int(_CIDS[id(form)].unpack(data)[0]) if len(data) == form.sqe.itemsize else None


@dataclass(frozen=True, slots=True)
class Answer:
    """Fields that the completions of all queues have."""

    cid: int
    sqhd: int
    psf: Psf


def answer(queue: int, data: bytes) -> Answer | None:
    """A completion; None if it has not the length of one."""
    form = form_of(queue)
    if len(data) != form.cqe.itemsize:
        return None
    first, second, psf = _ANSWERS[id(form)].unpack(data)
    sqhd, cid = (second, first) if form is AES_FORM else (first, second)
    return Answer(cid, sqhd, Psf(psf))


def completion_phase(queue: int, data: bytes) -> int | None:
    """Phase bit of a completion; None if it has not the length of one."""
    found = answer(queue, data)
    return found.psf.phase if found is not None else None


def ends_queues(record: Record) -> bool:
    """Whether it disables the controller or resets the subsystem, so that all queues are gone (spec 01 §4.2, §4.5)."""
    if not isinstance(record, RegisterWrite) or record.region != Bar.REGISTERS:
        return False
    is_disable = record.offset == Register.CC and not Cc(record.value).en
    return is_disable or (record.offset == Register.NSSR and record.value == NSSR_MAGIC)
