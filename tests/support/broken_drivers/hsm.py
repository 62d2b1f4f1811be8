# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The driver model with one mistake each, as drivers of this kind have them."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import numpy as np

from ihsm_abi.doorbells import sq_tail_offset
from ihsm_kmod.hsm.admin import AdminCommands, ignoring_status
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.hsm.module import HsmModule
from ihsm_kmod.hsm.pci import HsmPciDriver
from ihsm_kmod.hsm.queue import IoQueue
from ihsm_kmod.hsm.queue_pool import QueuePool
from ihsm_kmod.hsm.tags import Command
from ihsm_kmod.kernel.completion import Completion, wait_for_completion, wait_for_completion_timeout
from ihsm_kmod.kernel.io import writel
from ihsm_kmod.kernel.jiffies import msecs_to_jiffies


def module_with(queue: type[IoQueue] = IoQueue, controller: type[Controller] = Controller) -> type[HsmModule]:
    """A module whose queues, or controllers, are these."""
    pool = type("Pool", (QueuePool,), {"queue": queue})
    derived = type("Derived", (controller,), {"pool": pool})
    pci_driver = type("PciDriver", (HsmPciDriver,), {"controller": derived})
    return type(
        queue.__name__ if queue is not IoQueue else controller.__name__, (HsmModule,), {"pci_driver": pci_driver}
    )


class LostWakeUp(IoQueue):
    """Every third completion wakes nobody: its tag is free again, and who sleeps on it sleeps until its time is up."""

    consumed = 0

    def _consume(self, cqe: bytes) -> None:
        self.consumed += 1
        cid = int(np.frombuffer(cqe, self.form.cqe)[0][self.form.cid])
        command = self.tags.find(cid)
        if self.consumed % 3 or command is None:
            super()._consume(cqe)
            return
        done, command.done = command.done, Completion()
        super()._consume(cqe)
        command.done = done


class DoubleCompletion(IoQueue):
    """Goes on after an entry as if it had been two."""

    def _consume(self, cqe: bytes) -> None:
        super()._consume(cqe)
        super()._consume(cqe)


class PhaseIgnored(IoQueue):
    """A message means an entry, whatever the entry's phase says."""

    def drain(self) -> None:
        with self.completion_lock:
            size = self.form.cqe.itemsize
            self._consume(self.cq.view[self.head * size : (self.head + 1) * size].tobytes())
        super().drain()


class WrongTeardownOrder(IoQueue):
    """Deletes the completion queue first."""

    def delete(self, admin: AdminCommands) -> None:
        for delete in (admin.delete_cq, admin.delete_sq):
            with ignoring_status():
                delete(self.id)


class UnmapForgotten(IoQueue):
    """The rings stay mapped when the queue goes."""

    def free_rings(self) -> None:
        """Nothing."""


class MissingTimeOut(Controller):
    """Waits for an answer, however long."""

    def execute(self, pool: QueuePool, sqe: bytearray) -> Outcome:
        queue = pool.select()
        assert queue is not None
        command = Command()
        queue.submit(sqe, command)
        wait_for_completion(command.done)
        return Outcome(command.code, command.cqe, 0)


class NoRecovery(Controller):
    """Has a time limit, and does nothing when it is over but to tell the caller."""

    def execute(self, pool: QueuePool, sqe: bytearray) -> Outcome:
        queue = pool.select()
        assert queue is not None
        command = Command()
        queue.submit(sqe, command)
        if not wait_for_completion_timeout(command.done, msecs_to_jiffies(6000)):
            queue.forget(command)
            return Outcome(command.code, None, errno.EAGAIN)
        return Outcome(command.code, command.cqe, 0)


class UsedAfterReset(Controller):
    """Rings the doorbells of its queues behind a disable, as if they were still there."""

    def disable(self) -> None:
        super().disable()
        for queue in self.hsm_pool.queues:
            self._ring(queue)

    def subsystem_reset(self) -> None:
        super().subsystem_reset()
        for queue in self.hsm_pool.queues:
            self._ring(queue)

    def _ring(self, queue: IoQueue) -> None:
        writel((queue.tail + 1) % queue.slots, self.doorbells, sq_tail_offset(queue.id))


@dataclass(frozen=True)
class Broken:
    """A driver with a mistake, and the rule that says which."""

    name: str
    module: type[HsmModule]
    rule: str
    scenario: str
    """One that provokes it."""
    dma: str = "shared"
    """Kind of machine on which it shows."""


BROKEN = (
    Broken("lost wake-up", module_with(LostWakeUp), "recovery-cause", "load/one"),
    Broken("missing time-out", module_with(controller=MissingTimeOut), "timeout-recovers", "fault/drop-completion"),
    Broken("no recovery", module_with(controller=NoRecovery), "timeout-recovers", "fault/drop-completion"),
    Broken("double completion", module_with(DoubleCompletion), "head-posted", "fault/drop-completion"),
    Broken("phase ignored", module_with(PhaseIgnored), "head-posted", "fault/spurious-interrupt"),
    Broken("queue used after reset", module_with(controller=UsedAfterReset), "doorbell-queue", "reset/controller-idle"),
    Broken("an unmap forgotten", module_with(UnmapForgotten), "mapping-left", "bind/used", "strict"),
    Broken("an unmap forgotten, seen by the kernel", module_with(UnmapForgotten), "log-dma", "bind/used"),
    Broken("wrong teardown order", module_with(WrongTeardownOrder), "delete-order", "bind/used"),
)
