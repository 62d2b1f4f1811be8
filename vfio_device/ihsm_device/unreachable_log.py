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
from ihsm_device.commands import CommandSource, Refusal, Unreachable, UnreachableKind
from ihsm_device.scheduler import Scheduler

_log = logging.getLogger(__name__)

REPEAT_AFTER_S: Final = 10.0
"""Between two lines of one function about one kind."""
PAUSE_S: Final = 0.05
"""Between two looks: a guest that names wrong addresses without end costs no processor."""

_CAUSES: Final = {
    Refusal.NOT_MAPPED: (
        "no guest memory is mapped there; it must be a DMA address (not one of the CPU's), and a virtual IOMMU, if the "
        "guest has one, must translate for this device"
    ),
    Refusal.WITHOUT_POINTER: "the client does not share what is there: memory without share=on, a ROM or a BAR",
    Refusal.NOT_ALLOWED: "the memory there is mapped for the other direction only",
    Refusal.BEYOND_FILL: (
        "limit of filled bytes: the client's files were sparse, and this device has filled more of their holes than "
        "the client itself and the limit together; let the client touch its memory first (QEMU: prealloc=on)"
    ),
}


def _command(what: Unreachable) -> str:
    queue = what.queue_id
    kind = "admin" if queue == ADMIN_QUEUE_ID else "HSM" if queue < FIRST_AES_QUEUE_ID else "AES"
    match what.kind:
        case UnreachableKind.ENTRY:
            return f"entry {what.cid} of {kind} submission queue {queue} cannot be read"
        case UnreachableKind.COMPLETION:
            return f"the completion of {kind} command {what.cid} (queue {queue}) cannot be written"
        case UnreachableKind.SOURCE:
            return f"{kind} command {what.cid} (queue {queue}) names data or a list that cannot be read"
        case UnreachableKind.DESTINATION:
            return f"{kind} command {what.cid} (queue {queue}) names a destination that cannot be written"


def text(what: Unreachable, function: int | None, untold: int) -> str:
    """One line about memory out of reach; `untold` others of its kind have had none."""
    stops = " The queue stops." if what.kind in (UnreachableKind.ENTRY, UnreachableKind.COMPLETION) else ""
    more = f" ({untold} more of this kind)" if untold else ""
    return f"function {function}: {_command(what)} at {what.iova:#x}: {_CAUSES[what.reason]}.{stops}{more}"


class UnreachableLog:
    """The thread that takes what was out of reach and writes it into the log."""

    def __init__(self, scheduler: Scheduler, index_of: Callable[[CommandSource], int | None]) -> None:
        """`index_of` gives the number of an engine's function, None if it has gone."""
        self._scheduler = scheduler
        self._index_of = index_of
        self._told: dict[tuple[CommandSource, UnreachableKind], float] = {}
        self._untold: dict[tuple[CommandSource, UnreachableKind], int] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="unreachable", daemon=True)

    def start(self) -> None:
        """Tell of it from now on."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; the scheduler has been woken."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while (what := self._scheduler.pull_unreachable()) is not None:
            self.tell(what, time.monotonic())
            self._stopping.wait(PAUSE_S)

    def tell(self, what: Unreachable, now: float) -> None:
        """Write a line, unless there was one about this kind of this function a moment ago."""
        key = what.engine, what.kind
        if now - self._told.get(key, now - REPEAT_AFTER_S) < REPEAT_AFTER_S:
            self._untold[key] = self._untold.get(key, 0) + what.count
            return
        self._told[key] = now
        _log.warning("%s", text(what, self._index_of(what.engine), self._untold.pop(key, 0) + what.count - 1))
