# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Mutexes: locks whose owner may sleep (linux/mutex.h)."""

from __future__ import annotations

from types import TracebackType
from typing import ClassVar

from ihsm_kmod.kernel.lockdep import Lock
from ihsm_kmod.kernel.report import might_sleep


class Mutex(Lock):
    """A mutex; `with mutex:` is `mutex_lock`, and `mutex_unlock` however the block ends."""

    is_spinning: ClassVar[bool] = False

    def __enter__(self) -> None:
        """`mutex_lock`."""
        mutex_lock(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """`mutex_unlock`."""
        mutex_unlock(self)


def mutex_lock(mutex: Mutex) -> None:
    """Take a mutex, and sleep for as long as another task has it.

    Raises:
        Oops: that can never be, for this task has it, or the one that has it waits for this one.
    """
    might_sleep()
    mutex.take()


def mutex_trylock(mutex: Mutex) -> bool:
    """Take a mutex that nobody has; False where somebody does."""
    return mutex.try_take()


def mutex_unlock(mutex: Mutex) -> None:
    """Give a mutex back. Only who took it may."""
    mutex.give()


def mutex_is_locked(mutex: Mutex) -> bool:
    """Whether somebody has it."""
    return mutex.owner is not None
