# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers that are given out and taken back (linux/idr.h)."""

from __future__ import annotations

import errno

from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.report import ReportKind, warn
from ihsm_kmod.kernel.task import current


class Ida:
    """Gives out numbers, always the lowest that is free."""

    def __init__(self) -> None:
        """All are free."""
        self.allocated: set[int] = set()


def ida_alloc_max(ida: Ida, maximum: int) -> int:
    """The lowest free number from 0 to `maximum`.

    Raises:
        Errno: ENOSPC, none of them is free.
    """
    with current().kernel.sched:
        number = next((number for number in range(maximum + 1) if number not in ida.allocated), None)
        if number is None:
            raise Errno(errno.ENOSPC, f"all {maximum + 1} numbers are given out")
        ida.allocated.add(number)
        return number


def ida_free(ida: Ida, number: int) -> None:
    """Take a number back."""
    with current().kernel.sched:
        was_allocated = number in ida.allocated
        ida.allocated.discard(number)
    if not was_allocated:
        warn(ReportKind.IDA, str(number))
