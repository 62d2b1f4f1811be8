# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the checks of a kernel find (report.py makes it known)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ReportKind(StrEnum):
    """What was found. The value is how Linux puts it, or nearly so."""

    SLEEP_IN_ATOMIC = "sleeping function called from invalid context"
    RECURSIVE_LOCK = "possible recursive locking detected"
    LOCK_INVERSION = "possible circular locking dependency detected"
    SOFTIRQ_UNSAFE = "inconsistent lock state: taken in softirq, and elsewhere with softirqs on"
    HARDIRQ_UNSAFE = "inconsistent lock state: taken in hardirq, and elsewhere with hardirqs on"
    BAD_UNLOCK = "bad unlock balance detected"
    LOCK_HELD = "lock held when returning"
    DEADLOCK = "deadlock"
    HUNG_TASK = "task blocked for too long"
    WORK_PENDING = "work pending or running when its code went"
    TASK_LEAK = "task still there at the end"
    REFCOUNT = "refcount_t"
    IDA = "ida_free called for id which is not allocated"
    IRQ_LEAK = "interrupt leaked"
    IRQ_FREE = "trying to free an interrupt that is free"
    DMA_LEAK = "DMA-API: device driver has pending DMA allocations while released from device"
    DMA_DOUBLE_FREE = "DMA-API: device driver tries to free DMA memory it has not allocated"
    DMA_USE_AFTER_UNMAP = "DMA-API: memory used after it was unmapped"
    RESOURCE_LEAK = "resource leaked"
    WARN = "WARNING"
    NULL_POINTER = "kernel NULL pointer dereference"
    DIVIDE_ERROR = "divide error"
    STACK_OVERFLOW = "stack overflow"
    CRASH = "unhandled exception"
    HALTED = "kernel has ended"


@dataclass(frozen=True)
class Report:
    """One report."""

    kind: ReportKind
    text: str
    where: str
    """The driver's line, as file.py:line."""
    task: str

    def __str__(self) -> str:
        """One line, as it is in the log."""
        return f"{self.kind}: {self.text} at {self.where} in {self.task}"
