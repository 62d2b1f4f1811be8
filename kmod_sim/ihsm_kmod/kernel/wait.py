# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Wait queues: sleeping until a condition holds (linux/wait.h), or for a time (linux/delay.h)."""

from __future__ import annotations

from collections.abc import Callable

from ihsm_kmod.kernel.jiffies import msecs_to_jiffies
from ihsm_kmod.kernel.report import might_sleep
from ihsm_kmod.kernel.task import current


class WaitQueueHead:
    """Where tasks wait for something."""


def sleep_for(ready: Callable[[], bool], on: object, timeout: int) -> int:
    """Sleep `on` something until `ready`, at most `timeout` jiffies; 0 if it never was, else the jiffies left or 1."""
    kernel = current().kernel
    end = kernel.clock.jiffies + timeout
    if not kernel.sched.sleep(ready, on=on, timeout=timeout):
        return 0
    return max(1, end - kernel.clock.jiffies)


def wait_event(wq: WaitQueueHead, condition: Callable[[], bool]) -> None:
    """Sleep until the condition holds. Who makes it hold calls `wake_up`."""
    might_sleep()
    current().kernel.sched.sleep(condition, on=wq)


def wait_event_timeout(wq: WaitQueueHead, condition: Callable[[], bool], timeout: int) -> int:
    """Sleep until the condition holds, at most `timeout` jiffies.

    Returns:
        0 if it does not hold after that time, else the jiffies that were left, at least 1.
    """
    might_sleep()
    return sleep_for(condition, wq, timeout)


def wait_event_interruptible(wq: WaitQueueHead, condition: Callable[[], bool]) -> None:
    """Sleep until the condition holds.

    Raises:
        Errno: ERESTARTSYS, a signal came first.
    """
    might_sleep()
    current().kernel.sched.sleep(condition, on=wq, interruptible=True)


def wake_up(wq: WaitQueueHead) -> None:
    """Let those who wait look at their conditions again. Allowed in interrupt."""
    current().kernel.sched.wake(wq)


def wake_up_all(wq: WaitQueueHead) -> None:
    """The same: the two differ for exclusive waiters, which are not needed here."""
    wake_up(wq)


def msleep(milliseconds: int) -> None:
    """Sleep so long, uninterruptibly (linux/delay.h)."""
    might_sleep()
    current().kernel.sched.sleep(lambda: False, timeout=msecs_to_jiffies(milliseconds))
