# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The folder `azihsm` of a function in sysfs: its counters, and those of its queues (spec 02 A.2).

Files can be read alone, though their mode says more. They show numbers as a signed `%d` does, a rate as `%lu`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from ihsm_abi.uapi_names import DRIVER_NAME
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.queue import IoQueue
from ihsm_kmod.hsm.queue_pool import AES_POOL, QueuePool
from ihsm_kmod.kernel.sysfs import KObject, kobject_create_and_add, kobject_put, sysfs_create_files

FOLDERS: Final = {
    "admin": ("num_cpqs_created", "num_fpqs_created", "num_q_delete_cmds"),
    "global": (
        "total_error_completions", "total_submissions", "total_completions", "total_lvl2_aborts",
        "total_cmds_aborted", "total_lvl1_aborts",
    ),
}  # fmt: skip
"""Counters of the controller; no newline behind them."""
QUEUE_FILES: Final = {
    "num_cmds_pending_in_hw": "pending",
    "num_level1_aborts": "level1_aborts",
    "min_time_to_complete_io": "min_ns",
    "max_time_to_complete_io": "max_ns",
    "avg_time_to_complete_io": "avg_ns",
    "total_ios_in_error": "in_error",
    "total_ios_submitted_to_hw": "submitted",
    "total_ios_completed_by_hw": "completed",
    "total_ios_timedout": "timed_out",
}
"""Files of a queue, and which of its counters each shows; a newline behind them."""
RATE_FILE: Final = "completions_per_sec"
Show = Callable[[], str]


class FunctionSysfs:
    """The tree of one function, from one initialisation to the next."""

    def __init__(self, controller: Controller) -> None:
        """Make the folders of the controller's counters; `Errno` leaves nothing."""
        counters = controller.counters
        self._root = kobject_create_and_add(DRIVER_NAME, controller.pdev.kobj)
        try:
            for folder, names in FOLDERS.items():
                self._add(folder, {name: _shows(counters, name) for name in names})
        except BaseException:
            kobject_put(self._root)
            raise

    def add_queue(self, pool: QueuePool, queue: IoQueue) -> None:
        """Make the folder of a queue: cp_sq1, fp_sq256."""
        files = {file: _shows(queue.perf, name, "\n") for file, name in QUEUE_FILES.items()}
        files[RATE_FILE] = lambda: f"{queue.perf.completions_per_sec()}\n"
        self._add(f"{'fp' if pool.kind is AES_POOL else 'cp'}_sq{queue.id}", files)

    def destroy(self) -> None:
        """Remove the whole tree."""
        kobject_put(self._root)

    def _add(self, folder: str, files: Mapping[str, Show]) -> None:
        kobject: KObject = kobject_create_and_add(folder, self._root)
        sysfs_create_files(kobject, files)


def _shows(counters: object, name: str, end: str = "") -> Show:
    return lambda: f"{_signed(getattr(counters, name))}{end}"


def _signed(value: int) -> int:
    """A counter of 32 bits as `%d` prints it."""
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)
