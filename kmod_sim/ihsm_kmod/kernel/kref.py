# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Counting references (linux/kref.h, linux/refcount.h)."""

from __future__ import annotations

from collections.abc import Callable

from ihsm_kmod.kernel.report import ReportKind, warn
from ihsm_kmod.kernel.task import current


class Kref:
    """A count of references, 1 at first; `release` runs when the last is put."""

    def __init__(self, release: Callable[[], None]) -> None:
        """Linux hands `release` to every `kref_put`; it is always the same."""
        self.count = 1
        self.release = release


def kref_get(kref: Kref) -> None:
    """Take one more reference; who calls has one already."""
    with current().kernel.sched.lock:
        kref.count += kref.count > 0
        is_gone = kref.count == 0
    if is_gone:
        warn(ReportKind.REFCOUNT, "addition on 0; use-after-free")


def kref_get_unless_zero(kref: Kref) -> bool:
    """Take one more reference if there is one still; for who has none, and has found the object somewhere."""
    with current().kernel.sched.lock:
        kref.count += kref.count > 0
        return kref.count > 0


def kref_put(kref: Kref) -> bool:
    """Give one reference back; True if it was the last, after `release` has run."""
    with current().kernel.sched.lock:
        before = kref.count
        kref.count -= before > 0
    if before == 0:
        warn(ReportKind.REFCOUNT, "underflow; use-after-free")
    if before == 1:
        kref.release()
    return before == 1
