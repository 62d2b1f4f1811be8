# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Time as a driver sees it (linux/jiffies.h, linux/ktime.h)."""

from __future__ import annotations

from typing import Final

from ihsm_kmod.kernel.clock import HZ, jiffies_of
from ihsm_kmod.kernel.sched import cond_resched
from ihsm_kmod.kernel.task import current

__all__ = ["HZ", "MAX_SCHEDULE_TIMEOUT", "jiffies", "ktime_get_ns", "msecs_to_jiffies", "time_after"]

MAX_SCHEDULE_TIMEOUT: Final = 2**63 - 1
"""A timeout that means: for ever."""


def jiffies() -> int:
    """Now, in 1/HZ of a second; in Linux a variable. A loop that waits for it ends with a crashed kernel."""
    cond_resched()
    return current().kernel.clock.jiffies


def msecs_to_jiffies(milliseconds: int) -> int:
    """Jiffies that last at least so long."""
    return jiffies_of(milliseconds / 1000)


def time_after(a: int, b: int) -> bool:
    """Whether `a` is later than `b`. In Linux right even where the counter wraps; this one does not wrap."""
    return a > b


def ktime_get_ns() -> int:
    """Now, in nanoseconds."""
    cond_resched()
    return current().kernel.clock.now_ns()
