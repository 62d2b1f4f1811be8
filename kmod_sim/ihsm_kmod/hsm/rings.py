# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A pair of rings in DMA memory: what admin, HSM and AES queues have in common (spec 01 §5)."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from ihsm_abi.admin import ADMIN_CQE, ADMIN_SQE
from ihsm_abi.aes_queue import AES_CQE, AES_SQE
from ihsm_abi.doorbells import cq_head_offset, sq_tail_offset
from ihsm_abi.entries import RecordCodec
from ihsm_abi.hsm_queue import HSM_CQE, HSM_SQE
from ihsm_abi.pci import PAGE_BYTES
from ihsm_abi.uapi import InternalCode
from ihsm_kmod.hsm.function import HsmFunction
from ihsm_kmod.hsm.tags import Command, TagStore
from ihsm_kmod.kernel.completion import complete
from ihsm_kmod.kernel.dma import dma_alloc_coherent, dma_free_coherent
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.io import writel
from ihsm_kmod.kernel.mutex import Mutex
from ihsm_kmod.kernel.spinlock import SpinLock, spin_bh


class QueueFormat(NamedTuple):
    """How the entries of a kind of queue look."""

    name: str
    sqe: np.dtype[np.void]
    cqe: np.dtype[np.void]
    cid: str
    """Name of the command id in both entries."""
    completion: RecordCodec


ADMIN_FORMAT: Final = QueueFormat("admin", ADMIN_SQE, ADMIN_CQE, "cid", RecordCodec(ADMIN_CQE))
HSM_FORMAT: Final = QueueFormat("hsm", HSM_SQE, HSM_CQE, "cid", RecordCodec(HSM_CQE))
AES_FORMAT: Final = QueueFormat("aes", AES_SQE, AES_CQE, "cmd_id", RecordCodec(AES_CQE))


def ring_bytes(entry_bytes: int, slots: int) -> int:
    """Size of a ring: whole pages (spec 01 §5)."""
    return -(-entry_bytes * slots // PAGE_BYTES) * PAGE_BYTES


class QueuePair:
    """A submission and a completion ring of the same id and the same number of slots."""

    def __init__(self, function: HsmFunction, queue_id: int, slots: int, form: QueueFormat) -> None:
        """Allocate both rings, zeroed, or none; nothing is said to the device.

        Raises:
            Errno: ENOMEM.
        """
        self.function = function
        self.id = queue_id
        self.slots = slots
        self.form = form
        self.tags = TagStore(slots)
        self.submit_lock = Mutex(f"{form.name}_submit_lock")
        """Held for the submission ring: whoever submits, looks whether it is full, or deletes it."""
        self.completion_lock = SpinLock(f"{form.name}_completion_lock")
        """Held for the completion ring and for giving a command its end, in tasklets and outside."""
        self.tail = 0
        self.sq_head = 0
        """As the last completion told it: all that is known about room in the ring."""
        self.head = 0
        self.phase = 0
        """An entry whose phase equals this one is empty; so the device begins with 1."""
        self.sq = dma_alloc_coherent(function.pdev, ring_bytes(form.sqe.itemsize, slots))
        try:
            self.cq = dma_alloc_coherent(function.pdev, ring_bytes(form.cqe.itemsize, slots))
        except Errno:
            dma_free_coherent(function.pdev, self.sq)
            raise

    def free_rings(self) -> None:
        """Give the memory back."""
        dma_free_coherent(self.function.pdev, self.sq)
        dma_free_coherent(self.function.pdev, self.cq)

    @property
    def full(self) -> bool:
        """Whether the submission ring has no room, as far as the driver knows; under the submit lock."""
        return (self.tail + 1) % self.slots == self.sq_head

    def push(self, sqe: bytearray, command: Command) -> None:
        """Put an entry in the ring and ring its doorbell; under the submit lock, and not if it is full."""
        entry = np.frombuffer(sqe, self.form.sqe)
        entry[self.form.cid] = command.tag
        size = self.form.sqe.itemsize
        self.sq.view[self.tail * size : (self.tail + 1) * size] = np.frombuffer(sqe, np.uint8)
        self.tail = (self.tail + 1) % self.slots
        # The entry is in memory before the doorbell is: writel orders them.
        writel(self.tail, self.function.doorbells, sq_tail_offset(self.id))

    def drain(self) -> None:
        """Take all completions that are there; in a tasklet (spec 01 §5.2).

        Looks at no "disabled" flag: what comes during a level-1 abort is a completion like any other.
        """
        with self.completion_lock:
            while (cqe := self._next_completion()) is not None:
                self._consume(cqe)

    def _next_completion(self) -> bytes | None:
        size = self.form.cqe.itemsize
        # The phase is in the last two bytes of every format, and the device writes them last.
        cqe = self.cq.view[self.head * size : (self.head + 1) * size].tobytes()
        return None if cqe[-2] & 1 == self.phase else cqe

    def _consume(self, cqe: bytes) -> None:
        fields = self.form.completion.unpack(cqe)
        tag = getattr(fields, self.form.cid)
        command = self.tags.find(tag)
        if command is None:
            self.function.log.warn(f"queue {self.id}: completion of unknown command {tag}")
        else:
            command.cqe, command.code = cqe, InternalCode.SUCCESS
        self.head += 1
        if self.head == self.slots:
            self.head, self.phase = 0, self.phase ^ 1
        writel(self.head, self.function.doorbells, cq_head_offset(self.id))
        self.sq_head = fields.sqhd
        if command is not None:
            self.tags.release(command)
            complete(command.done)

    def forget(self, command: Command) -> None:
        """Take the tag of a command back that got no completion; one that comes later finds no command, or another."""
        with spin_bh(self.completion_lock):
            self.tags.release(command)

    def flush(self) -> int:
        """Complete every command that has a tag with ABORTED and take the tags back; returns how many there were."""
        with spin_bh(self.completion_lock):
            commands = self.tags.outstanding()
            for command in commands:
                command.code = InternalCode.ABORTED
                self.tags.release(command)
                complete(command.done)
        return len(commands)
