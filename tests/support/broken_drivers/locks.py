# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Locks taken wrongly."""

from __future__ import annotations

from ihsm_kmod.kernel.completion import Completion, complete, wait_for_completion
from ihsm_kmod.kernel.mutex import Mutex, mutex_lock, mutex_unlock
from ihsm_kmod.kernel.spinlock import (
    SpinLock,
    spin_bh,
    spin_irqsave,
    spin_lock,
    spin_lock_bh,
    spin_lock_irqsave,
    spin_unlock,
    spin_unlock_irqrestore,
)
from ihsm_kmod.kernel.task import current
from ihsm_kmod.kernel.wait import msleep


class Driver:
    """Has the locks that its functions misuse."""

    def __init__(self) -> None:
        self.state = Mutex("state")
        self.queue = Mutex("queue")
        self.ring = SpinLock("ring")
        self.tags = SpinLock("tags")
        self.first = Completion()
        self.second = Completion()

    def sleep_with_spinlock(self) -> None:
        with self.ring:
            msleep(0)  # BUG

    def mutex_with_spinlock(self) -> None:
        with self.ring, self.state:  # BUG
            pass

    def sleep_without_bottom_halves(self) -> None:
        with spin_bh(self.ring):
            msleep(0)  # BUG

    def sleep_in_handler(self) -> None:
        with current().hardirq():
            mutex_lock(self.state)  # BUG
        mutex_unlock(self.state)

    def sleep_in_tasklet(self) -> None:
        with current().softirq():
            wait_for_completion(self.completed())  # BUG

    def completed(self) -> Completion:
        complete(self.first)
        return self.first

    def mutex_twice(self) -> None:
        with self.state:
            self.locked_again()

    def locked_again(self) -> None:
        with self.state:  # BUG
            pass

    def spinlock_twice(self) -> None:
        spin_lock(self.ring)
        spin_lock(self.ring)  # BUG

    def second_of_a_class(self) -> None:
        with self.state, Mutex("state"):  # BUG
            pass

    def state_then_queue(self) -> None:
        with self.state:
            complete(self.first)
            wait_for_completion(self.second)
            with self.queue:  # BUG
                pass

    def queue_then_state(self) -> None:
        with self.queue:
            complete(self.second)
            wait_for_completion(self.first)
            with self.state:  # BUG
                pass

    def ring_then_tags(self) -> None:
        with self.ring, self.tags:
            pass

    def tags_then_ring(self) -> None:
        with self.tags, self.ring:  # BUG
            pass

    def state_then_ring_then_tags(self) -> None:
        with self.state, self.ring:
            pass
        self.ring_then_tags()

    def tags_then_state(self) -> None:
        spin_lock(self.tags)
        self.state.take()  # BUG
        mutex_unlock(self.state)
        spin_unlock(self.tags)

    def tasklet(self) -> None:
        with current().softirq(), self.ring:
            pass

    def handler(self) -> None:
        with current().hardirq(), self.ring:
            pass

    def unsafe_in_task(self) -> None:
        with self.ring:  # BUG
            pass

    def safe_of_tasklets(self) -> None:
        with spin_bh(self.ring):
            pass

    def unsafe_of_handlers(self) -> None:
        with spin_bh(self.ring):  # BUG
            pass

    def safe_of_handlers(self) -> None:
        with spin_irqsave(self.ring):
            pass

    def take(self) -> None:
        mutex_lock(self.state)  # BUG

    def give_of_another(self) -> None:
        mutex_unlock(self.state)  # BUG

    def give_twice(self) -> None:
        with self.ring:
            pass
        spin_unlock(self.ring)  # BUG

    def return_without_bottom_halves(self) -> None:
        spin_lock_bh(self.ring)
        spin_unlock(self.ring)

    def return_without_interrupts(self) -> None:
        flags = spin_lock_irqsave(self.ring)
        spin_unlock_irqrestore(self.ring, not flags)
