# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Completions: waiting until another task or an interrupt is done with something (linux/completion.h)."""

from __future__ import annotations

from typing import Final

from ihsm_kmod.kernel.report import might_sleep
from ihsm_kmod.kernel.task import current
from ihsm_kmod.kernel.wait import sleep_for

_FOR_ALL: Final = 2**31
"""Linux: UINT_MAX / 2, for as many waiters as ever come."""


class Completion:
    """Counts how often it was completed; every waiter takes one off."""

    def __init__(self) -> None:
        """Not completed."""
        self.done = 0

    def take(self) -> bool:
        """Take one off; False if there is none."""
        with current().kernel.sched.lock:
            if self.done == 0:
                return False
            if self.done < _FOR_ALL:
                self.done -= 1
            return True


def complete(completion: Completion) -> None:
    """Let one waiter go on, now or when it comes. Allowed in interrupt."""
    sched = current().kernel.sched
    with sched.lock:
        completion.done += 1
        sched.wake(completion)


def complete_all(completion: Completion) -> None:
    """Let all go on, now or when they come, until `reinit_completion`."""
    sched = current().kernel.sched
    with sched.lock:
        completion.done = _FOR_ALL
        sched.wake(completion)


def completion_done(completion: Completion) -> bool:
    """Whether a waiter would go on at once."""
    return completion.done > 0


def reinit_completion(completion: Completion) -> None:
    """Make it as new, for the next use; nobody may be waiting."""
    with current().kernel.sched.lock:
        completion.done = 0


def wait_for_completion(completion: Completion) -> None:
    """Sleep until it is completed."""
    might_sleep()
    current().kernel.sched.sleep(completion.take, on=completion)


def wait_for_completion_timeout(completion: Completion, timeout: int) -> int:
    """Sleep until it is completed, at most `timeout` jiffies.

    Returns:
        0 if it was not, else the jiffies that were left, at least 1.
    """
    might_sleep()
    return sleep_for(completion.take, completion, timeout)
