# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers that are given out and taken back (linux/idr.h)."""

from __future__ import annotations

import itertools

from ihsm_kmod.kernel.report import ReportKind, warn
from ihsm_kmod.kernel.task import current


class Ida:
    """Gives out numbers, always the lowest that is free."""

    def __init__(self) -> None:
        """All are free."""
        self.allocated: set[int] = set()


def ida_alloc(ida: Ida) -> int:
    """The lowest free number from 0 on."""
    with current().kernel.sched.lock:
        number = next(number for number in itertools.count() if number not in ida.allocated)
        ida.allocated.add(number)
        return number


def ida_free(ida: Ida, number: int) -> None:
    """Take a number back."""
    with current().kernel.sched.lock:
        was_allocated = number in ida.allocated
        ida.allocated.discard(number)
    if not was_allocated:
        warn(ReportKind.IDA, str(number))
