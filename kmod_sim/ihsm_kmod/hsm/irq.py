# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Interrupts: a hard handler schedules a tasklet, which drains the queues of its vector (spec 01 §5.2)."""

from __future__ import annotations

from ihsm_kmod.hsm.function import HsmFunction
from ihsm_kmod.hsm.rings import QueuePair
from ihsm_kmod.kernel.interrupt import IRQ_HANDLED, Tasklet, free_irq, request_irq, tasklet_kill, tasklet_schedule
from ihsm_kmod.kernel.pci import pci_irq_vector
from ihsm_kmod.kernel.spinlock import SpinLock, spin_bh


class Vector:
    """One MSI-X vector and the queues whose completions it announces.

    There is no polling anywhere: a completion whose message is lost is seen with the vector's next message.
    """

    def __init__(self, function: HsmFunction, number: int, name: str) -> None:
        """Request the interrupt.

        Raises:
            Errno: EINVAL, the function has no vector of this number (spec 01 §1.2).
        """
        self.function = function
        self.number = number
        self.queues: list[QueuePair] = []
        self.lock = SpinLock("vector_lock")
        self.tasklet = Tasklet(self._drain, None)
        self.irq = pci_irq_vector(function.pdev, number)
        request_irq(self.irq, self._interrupt, name, self)

    def attach(self, queue: QueuePair) -> None:
        """Drain this queue too."""
        with spin_bh(self.lock):
            self.queues.append(queue)

    def detach(self, queue: QueuePair) -> None:
        """Leave this queue alone: what it completes from now on is never consumed (spec 01 §13)."""
        with spin_bh(self.lock):
            self.queues.remove(queue)

    def free(self) -> None:
        """Give the interrupt back."""
        free_irq(self.irq, self)
        if self.function.quirks.tasklets_outlive_vectors:
            del self.queues  # freed memory, for a tasklet that is still to run
        else:
            tasklet_kill(self.tasklet)

    def _interrupt(self, irq: int, dev_id: object) -> int:
        # No register is read and nothing is masked: the message says it all.
        tasklet_schedule(self.tasklet)
        return IRQ_HANDLED

    def _drain(self, data: object) -> None:
        with self.lock:
            for queue in self.queues:
                queue.drain()
