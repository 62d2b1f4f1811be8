# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Locks of open files among all threads and processes of a machine (flock(2))."""

from __future__ import annotations

import fcntl


def try_lock(descriptor: int) -> bool:
    """Lock an open file or folder until its descriptor is closed; False if somebody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock(descriptor: int) -> None:
    """Give up a lock that `try_lock` gave, if it did.

    Closing is not enough: a child that another thread forked meanwhile has the descriptor too, and would keep the lock.
    """
    fcntl.flock(descriptor, fcntl.LOCK_UN)
