# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Spinlocks: locks whose owner must not sleep, and which interrupts may take (linux/spinlock.h).

Which of the three a driver needs depends on who else takes the lock: `spin_lock` if no interrupt does, `spin_lock_bh`
if a tasklet does, `spin_lock_irqsave` if an interrupt handler does. An interrupt that came while its own processor held
the lock would else wait for it for ever. Here interrupts run in a thread of their own, so that this cannot happen;
lockdep reports that it could.
"""

from __future__ import annotations

from types import TracebackType
from typing import ClassVar

from ihsm_kmod.kernel.lockdep import Lock
from ihsm_kmod.kernel.task import current


class SpinLock(Lock):
    """A spinlock; `with lock:` is `spin_lock`, and `spin_unlock` however the block ends."""

    is_spinning: ClassVar[bool] = True

    def __enter__(self) -> None:
        """`spin_lock`."""
        spin_lock(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """`spin_unlock`."""
        spin_unlock(self)


def spin_lock(lock: SpinLock) -> None:
    """Take a lock that no interrupt takes.

    Raises:
        Oops: that can never be, for this task has it, or the one that has it waits for this one.
    """
    lock.take()


def spin_unlock(lock: SpinLock) -> None:
    """Undo `spin_lock`."""
    lock.give()


def spin_lock_bh(lock: SpinLock) -> None:
    """Disable tasklets on this processor, and take a lock that they take as well; errors as `spin_lock`."""
    current().bh_disabled += 1
    lock.take()


def spin_unlock_bh(lock: SpinLock) -> None:
    """Undo `spin_lock_bh`."""
    lock.give()
    current().bh_disabled -= 1


def spin_lock_irqsave(lock: SpinLock) -> bool:
    """Disable interrupts on this processor, and take a lock that their handlers take as well; errors as `spin_lock`.

    Returns:
        The flags for `spin_unlock_irqrestore`: whether interrupts were disabled before.
    """
    task = current()
    flags, task.irqs_disabled = task.irqs_disabled, True
    lock.take()
    return flags


def spin_unlock_irqrestore(lock: SpinLock, flags: bool) -> None:
    """Undo `spin_lock_irqsave`."""
    lock.give()
    current().irqs_disabled = flags


class spin_bh:
    """`with spin_bh(lock):` is `spin_lock_bh`, and `spin_unlock_bh` however the block ends."""

    def __init__(self, lock: SpinLock) -> None:
        """Nothing is taken yet."""
        self._lock = lock

    def __enter__(self) -> None:
        """`spin_lock_bh`."""
        spin_lock_bh(self._lock)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """`spin_unlock_bh`."""
        spin_unlock_bh(self._lock)


class spin_irqsave:
    """`with spin_irqsave(lock):` is `spin_lock_irqsave`, and `spin_unlock_irqrestore` however the block ends."""

    def __init__(self, lock: SpinLock) -> None:
        """Nothing is taken yet."""
        self._lock = lock
        self._flags = False

    def __enter__(self) -> None:
        """`spin_lock_irqsave`."""
        self._flags = spin_lock_irqsave(self._lock)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """`spin_unlock_irqrestore`."""
        spin_unlock_irqrestore(self._lock, self._flags)
