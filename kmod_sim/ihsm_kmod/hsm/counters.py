# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Counters: of the controller, and of each I/O queue (spec 01 §7, 02 A.2, A.11)."""

from __future__ import annotations

import threading
from typing import Final

from ihsm_kmod.kernel.jiffies import ktime_get_ns

U32_MAX: Final = 0xFFFF_FFFF


class Counters:
    """Numbers that several threads raise (Linux: `atomic_t`); read them as attributes, change them by `add`."""

    def __init__(self) -> None:
        """All zero."""
        self._atomic = threading.Lock()

    def add(self, name: str, amount: int = 1) -> None:
        """Raise (or lower) a counter."""
        with self._atomic:
            setattr(self, name, getattr(self, name) + amount)


class ControllerCounters(Counters):
    """What sysfs shows in `admin/` and `global/`, and the test hooks; a new one per initialisation."""

    num_cpqs_created = 0
    num_fpqs_created = 0
    num_q_delete_cmds = 0
    """DELETE_SQ commands of level-1 aborts; those of a teardown do not count."""
    total_error_completions = 0
    total_submissions = 0
    total_completions = 0
    total_lvl2_aborts = 0
    total_cmds_aborted = 0
    total_lvl1_aborts = 0
    proc_not_own_fd_cnt = 0
    session_flush_cnt = 0
    close_by_not_own_proc_cnt = 0


class QueuePerf(Counters):
    """What sysfs shows in `cp_sq<id>/` and `fp_sq<id>/`; times in nanoseconds, kept in 32 bits."""

    pending = 0
    """Raised before each submission, lowered by a completion alone: what was aborted stays in it."""
    level1_aborts = 0
    min_ns = 0
    max_ns = 0
    avg_ns = 0
    in_error = 0
    submitted = 0
    completed = 0
    timed_out = 0
    _total_ns = 0
    _rate_completed = 0
    _rate_read_ns = 0

    def submit(self) -> None:
        """A command is about to be submitted."""
        with self._atomic:
            self.pending += 1
            self.submitted += 1

    def complete(self, elapsed_ns: int, *, divides_by_zero: bool) -> None:
        """A command came back after so long.

        The mean divides by the number of submissions, which is 0 again if the queue has been freed meanwhile (spec 01
        §8.3): then nothing is counted, unless the quirk `divides_by_zero` is asked for.
        """
        with self._atomic:
            if not self.submitted and not divides_by_zero:
                return
            self.pending -= 1
            self.completed += 1
            elapsed_ns &= U32_MAX
            self.min_ns = min(self.min_ns or elapsed_ns, elapsed_ns)
            self.max_ns = max(self.max_ns, elapsed_ns)
            self._total_ns += elapsed_ns
            self.avg_ns = (self._total_ns // self.submitted) & U32_MAX

    def completions_per_sec(self) -> int:
        """Completions since the last call by the time since then; with no time between, their number at that call."""
        now, completed = ktime_get_ns(), self.completed
        previous, elapsed_us = self._rate_completed, (now - self._rate_read_ns) // 1000
        if not elapsed_us:
            return previous
        self._rate_completed, self._rate_read_ns = completed, now
        return (completed - previous) * 1_000_000 // elapsed_us

    def clear(self) -> None:
        """All zero, as when its queue is freed."""
        with self._atomic:
            for name in [name for name in vars(self) if name != "_atomic"]:
                delattr(self, name)
