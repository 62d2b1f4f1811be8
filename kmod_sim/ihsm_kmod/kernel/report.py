# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What Linux's debug options print: reports of misuse, after which the kernel goes on or crashes."""

from __future__ import annotations

import os
import sys
import sysconfig
from functools import cache
from types import FrameType
from typing import Final, NoReturn

import ihsm.errors as _bus_side
from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.printk import pr_err
from ihsm_kmod.kernel.reports import Report, ReportKind
from ihsm_kmod.kernel.task import current

__all__ = ["UNKNOWN", "Report", "ReportKind", "crash", "might_sleep", "oops", "warn", "where", "where_raised"]

UNKNOWN: Final = "?"
"""In the place of a line: no driver is involved."""
_KERNEL: Final = os.path.dirname(__file__) + os.sep
_MODEL: Final = os.path.dirname(os.path.dirname(__file__)) + os.sep
_LIBRARIES: Final = tuple(
    {path + os.sep for path in (*sysconfig.get_paths().values(), os.path.dirname(_bus_side.__file__))} | {"<"}
)


@cache
def _driver_file(filename: str) -> str:
    """Name of a file without its folders if it may be a driver's; "" for one of the kernel, the bus, or a library."""
    is_foreign = filename.startswith(_KERNEL if filename.startswith(_MODEL) else _LIBRARIES)
    return "" if is_foreign else os.path.basename(filename)


def where() -> str:
    """The line that called into the kernel, as file.py:line: the innermost that is a driver's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if name := _driver_file(frame.f_code.co_filename):
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return UNKNOWN


def where_raised(error: BaseException) -> str:
    """The driver's line in which an exception arose."""
    trace, found = error.__traceback__, UNKNOWN
    while trace is not None:
        if name := _driver_file(trace.tb_frame.f_code.co_filename):
            found = f"{name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def warn(kind: ReportKind, text: str, at: str | None = None) -> None:
    """Report what is wrong and go on, as Linux's WARN does; with `panic_on_warn` it is an oops.

    Args:
        kind: what was found.
        text: the rest of the report.
        at: the line to name, where it is not the one that runs: of a leak, where the thing was allocated.
    """
    task = current()
    if task.kernel.panic_on_warn:
        oops(kind, text, at)
    report = Report(kind, text, at or where(), str(task))
    task.kernel.reports.append(report)
    pr_err(f"WARNING: {report}")


def oops(kind: ReportKind, text: str, at: str | None = None) -> NoReturn:
    """Crash this kernel: all its tasks, whether they sleep or come later, end with an `Oops`."""
    kernel = current().kernel
    report = Report(kind, text, at or where(), str(current()))
    with kernel.sched.lock:
        if kernel.sched.halted is None:
            # Before anybody can see that it has crashed.
            kernel.reports.append(report)
            pr_err(f"BUG: {report}")
            kernel.sched.halt(report)
    # What the kernel crashed of first, which this may be a consequence of.
    raise Oops(kernel.sched.halted or report)


def crash(error: Exception) -> NoReturn:
    """Crash this kernel of an exception that no driver should let out."""
    kind, text = _diagnosis(error)
    oops(kind, text, where_raised(error))


def _diagnosis(error: Exception) -> tuple[ReportKind, str]:
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ZeroDivisionError):
        return ReportKind.DIVIDE_ERROR, text
    if isinstance(error, RecursionError):
        return ReportKind.STACK_OVERFLOW, text
    of_none = isinstance(error, AttributeError) and error.obj is None
    if of_none or (isinstance(error, TypeError) and "NoneType" in str(error)):
        return ReportKind.NULL_POINTER, text
    if isinstance(error, Errno):
        return ReportKind.CRASH, f"an error that nobody can be told: {error}"
    return ReportKind.CRASH, text


def might_sleep() -> None:
    """Say that what follows may sleep: a warning where that is forbidden, an `Oops` on a crashed kernel."""
    task = current()
    task.kernel.sched.check()
    if task.is_atomic:
        warn(ReportKind.SLEEP_IN_ATOMIC, _context())


def _context() -> str:
    task = current()
    parts = [
        "in an interrupt handler" * bool(task.hardirq_depth),
        "in a tasklet" * bool(task.softirq_depth),
        *(f"with {held.lock} held since {held.where}" for held in task.held_locks if held.is_atomic),
    ]
    return ", ".join(filter(None, parts)) or "with interrupts or tasklets disabled"
