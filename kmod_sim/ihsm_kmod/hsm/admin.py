# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The admin queue and its commands (spec 01 §6)."""

from __future__ import annotations

import contextlib
import errno
from typing import Final

import numpy as np

from ihsm_abi.admin import (
    ADMIN_CQE,
    ADMIN_SQE,
    AES_FW_CAPS_GCM_WORKAROUND,
    CNS_CONTROLLER,
    AdminOpcode,
    CreateCqDw11,
    CreateSqDw11,
    Feature,
    FeatureDw10,
    IdentifyDw10,
    Psf,
    QueueCounts,
    QueueDw10,
)
from ihsm_abi.resources import ADMIN_QUEUE_ID
from ihsm_kmod.hsm.function import HsmFunction
from ihsm_kmod.hsm.registers import ADMIN_SLOTS
from ihsm_kmod.hsm.rings import ADMIN_FORMAT, QueuePair
from ihsm_kmod.hsm.tags import Command
from ihsm_kmod.kernel.completion import wait_for_completion_timeout
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.jiffies import msecs_to_jiffies

ADMIN_TIMEOUT_MS: Final = 30_000
REQUESTED_QUEUES: Final = 128
"""Sent as it is, though the answer counts from 0 (spec 01 §6.5)."""
PRIORITY_HIGH: Final = 1
PRIORITY_LOW: Final = 3


class AdminQueue(QueuePair):
    """Queue 0: every caller submits one command and waits for it."""

    def __init__(self, function: HsmFunction) -> None:
        """Allocate the rings."""
        super().__init__(function, ADMIN_QUEUE_ID, ADMIN_SLOTS, ADMIN_FORMAT)
        self._is_freed = False

    def free_rings(self) -> None:
        """Give the memory back, behind whoever submits; a management ioctl may come even later."""
        with self.submit_lock:
            self._is_freed = True
            super().free_rings()

    def execute(self, opcode: AdminOpcode, **fields: int) -> int:
        """Send a command, wait for it uninterruptibly; returns dw0 of the completion.

        Raises:
            Errno: EAGAIN no answer within 30 s, or no room; EFAULT any status but success; ENODEV the rings are freed.
        """
        sqe = bytearray(ADMIN_SQE.itemsize)
        entry = np.frombuffer(sqe, ADMIN_SQE)
        entry["opc"] = opcode
        for name, value in fields.items():
            entry[name] = value
        command = Command()
        with self.submit_lock:
            if self._is_freed:
                raise Errno(errno.ENODEV, f"{opcode.name}: the admin queue has gone")
            # Where it is full the driver returns a variable that nobody has set; ours has the likeliest value.
            if self.full or not self.tags.claim(command):
                raise Errno(errno.EAGAIN, "the admin queue is full")
            self.push(sqe, command)
        if not wait_for_completion_timeout(command.done, msecs_to_jiffies(ADMIN_TIMEOUT_MS)):
            # The tag is free at once: a completion later than this may end another command.
            self.forget(command)
            self.function.log.err(f"admin command {opcode.name} timed out")
            raise Errno(errno.EAGAIN, f"{opcode.name}: no answer")
        assert command.cqe is not None
        cqe = np.frombuffer(command.cqe, ADMIN_CQE)[0]
        # DNR, More and CRD, bits 15:12, are not looked at.
        status = Psf(int(cqe["psf"])).sc
        if status:
            self.function.log.err(f"admin command {opcode.name} failed, status {status:#x}")
            raise Errno(errno.EFAULT, f"{opcode.name}: status {status:#x}")
        return int(cqe["dw0"])


class AdminCommands:
    """The commands of spec 01 §6.3 that the driver sends, over one admin queue; errors as of `AdminQueue.execute`."""

    def __init__(self, queue: AdminQueue) -> None:
        """Send them over `queue`."""
        self._queue = queue

    def identify(self, page: int) -> None:
        """IDENT: the device writes the controller structure to the page at this DMA address (§6.4)."""
        self._queue.execute(AdminOpcode.IDENTIFY, prp1=page, dw10=IdentifyDw10.of(cns=CNS_CONTROLLER))

    def set_queue_count(self, feature: Feature) -> int:
        """SET_FEAT of a queue count: how many queue pairs the device grants (§6.5)."""
        request = QueueCounts.of(sqs=REQUESTED_QUEUES, cqs=REQUESTED_QUEUES)
        granted = QueueCounts(
            self._queue.execute(AdminOpcode.SET_FEATURES, dw10=FeatureDw10.of(feat_id=feature), dw11=request)
        )
        # In 16 bits: 0xFFFF in both halves is the one way to grant none.
        return (min(granted.sqs, granted.cqs) + 1) & 0xFFFF

    def gcm_workaround(self) -> bool:
        """GET_FEAT 0xC2: whether unaligned GCM goes another way; a refusal means that it does not (§6.5)."""
        try:
            caps = self._queue.execute(AdminOpcode.GET_FEATURES, dw10=FeatureDw10.of(feat_id=Feature.AES_FW_CAPS))
        except Errno:
            return False
        return bool(caps & AES_FW_CAPS_GCM_WORKAROUND)

    def create_cq(self, queue_id: int, slots: int, ring: int, vector: int) -> None:
        """CREATE_CQ (§6.6)."""
        self._queue.execute(
            AdminOpcode.CREATE_CQ,
            prp1=ring,
            dw10=QueueDw10.of(id=queue_id, size=slots - 1),
            dw11=CreateCqDw11.of(pc=1, ien=1, ivec=vector),
        )

    def create_sq(self, queue_id: int, slots: int, ring: int) -> None:
        """CREATE_SQ with the CQ of the same id (§6.7)."""
        priority = PRIORITY_HIGH if queue_id % 2 else PRIORITY_LOW
        self._queue.execute(
            AdminOpcode.CREATE_SQ,
            prp1=ring,
            dw10=QueueDw10.of(id=queue_id, size=slots - 1),
            dw11=CreateSqDw11.of(pc=1, qprio=priority, cqid=queue_id),
        )

    def delete_sq(self, queue_id: int) -> None:
        """DELETE_SQ (§6.8)."""
        self._queue.execute(AdminOpcode.DELETE_SQ, dw10=QueueDw10.of(id=queue_id))

    def delete_cq(self, queue_id: int) -> None:
        """DELETE_CQ (§6.8)."""
        self._queue.execute(AdminOpcode.DELETE_CQ, dw10=QueueDw10.of(id=queue_id))

    def set_resource_count(self, ctrl_id: int, count: int) -> None:
        """SET_RES_CNT (§6.9)."""
        self._queue.execute(AdminOpcode.SET_RES_CNT, dw10=ctrl_id, dw11=count)

    def get_resource_count(self, ctrl_id: int) -> int:
        """GET_RES_CNT; the low 16 bits of the answer count (§6.9)."""
        return self._queue.execute(AdminOpcode.GET_RES_CNT, dw10=ctrl_id) & 0xFFFF


def ignoring_status() -> contextlib.suppress:
    """For the DELETE commands of a teardown: whatever they answer, it goes on (spec 01 §13)."""
    return contextlib.suppress(Errno)
