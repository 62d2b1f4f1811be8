# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Tells of addresses that commands name and that are out of reach, on a thread that nobody waits for.

It is the first mistake of a driver's author: the answer is a status or CSTS.CFS, which says neither where nor why.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from ihsm_device.engine import Engine, Fault, FaultKind, Refusal, Scheduler

_log = logging.getLogger(__name__)

REPEAT_AFTER_S: Final = 10.0
"""Between two lines of one function about one kind of fault."""
PAUSE_S: Final = 0.05
"""Between two looks: a guest that makes faults without end costs no processor."""

_CAUSES: Final = {
    Refusal.NOT_MAPPED: (
        "no guest memory is mapped there; it must be a DMA address (not one of the CPU's), and a virtual IOMMU, if the "
        "guest has one, must translate for this device"
    ),
    Refusal.WITHOUT_POINTER: "the client does not share what is there: memory without share=on, a ROM or a BAR",
    Refusal.NOT_ALLOWED: "the memory there is mapped for the other direction only",
}


def _command(fault: Fault) -> str:
    queue = fault.queue_id
    kind = "admin" if queue == ADMIN_QUEUE_ID else "HSM" if queue < FIRST_AES_QUEUE_ID else "AES"
    match fault.kind:
        case FaultKind.ENTRY:
            return f"entry {fault.cid} of {kind} submission queue {queue} cannot be read"
        case FaultKind.COMPLETION:
            return f"the completion of {kind} command {fault.cid} (queue {queue}) cannot be written"
        case FaultKind.SOURCE:
            return f"{kind} command {fault.cid} (queue {queue}) names data or a list that cannot be read"
        case FaultKind.DESTINATION:
            return f"{kind} command {fault.cid} (queue {queue}) names a destination that cannot be written"


def text(fault: Fault, function: int | None, untold: int) -> str:
    """One line about a fault; `untold` faults of its kind have had none."""
    stops = " The queue stops." if fault.kind in (FaultKind.ENTRY, FaultKind.COMPLETION) else ""
    more = f" ({untold} more of this kind)" if untold else ""
    return f"function {function}: {_command(fault)} at {fault.iova:#x}: {_CAUSES[fault.reason]}.{stops}{more}"


class FaultLog:
    """The thread that takes faults and writes them into the log."""

    def __init__(self, scheduler: Scheduler, index_of: Callable[[Engine], int | None]) -> None:
        """`index_of` gives the number of an engine's function, None if it has gone."""
        self._scheduler = scheduler
        self._index_of = index_of
        self._told: dict[tuple[Engine, FaultKind], float] = {}
        self._untold: dict[tuple[Engine, FaultKind], int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults", daemon=True)

    def start(self) -> None:
        """Tell of faults from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the scheduler has been woken."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while (fault := self._scheduler.pull_fault()) is not None:
            self.tell(fault, time.monotonic())
            self._stopping.wait(PAUSE_S)

    def tell(self, fault: Fault, now: float) -> None:
        """Write a line, unless there was one about this kind of fault of this function a moment ago."""
        key = fault.engine, fault.kind
        if now - self._told.get(key, now - REPEAT_AFTER_S) < REPEAT_AFTER_S:
            self._untold[key] = self._untold.get(key, 0) + fault.count
            return
        self._told[key] = now
        _log.warning("%s", text(fault, self._index_of(fault.engine), self._untold.pop(key, 0) + fault.count - 1))
