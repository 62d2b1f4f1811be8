# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands to a security module by way of a ring and the workers of a scheduler, for many callers at once."""

from __future__ import annotations

import threading
from typing import Any, Final

import numpy as np

from ihsm_abi.hsm_queue import HsmStatus, SessionControl
from ihsm_abi.pci import PAGE_BYTES
from ihsm_device.function import Function
from ihsm_device.hsm.command import HsmCommand, HsmCompletion
from ihsm_device.hsm.module import SecurityModule
from ihsm_device.scheduler import Scheduler
from support.polled import hsm_sqe
from support.rig import EngineRig
from support.waiting import first

SLOTS: Final = 31
QUEUE: Final = 1


class RingPath:
    """One queue to a module: any number of callers, SLOTS of whose commands are outstanding."""

    def __init__(self, module: SecurityModule, scheduler: Scheduler) -> None:
        self.rig = EngineRig(scheduler=scheduler)
        self.function = Function(self.rig.engine, module)
        self._queue = self.rig.queue(QUEUE, SLOTS + 1).create()
        self._requests, self._responses = (self.rig.allocate(SLOTS * PAGE_BYTES) for _ in range(2))
        self._free = list(range(SLOTS))
        self._room = threading.Semaphore(SLOTS)
        self._lock = threading.Lock()
        self._answers: dict[int, Any] = {}

    def execute(self, command: HsmCommand) -> HsmCompletion:
        with self._room:
            with self._lock:
                slot = self._free.pop()
            request, response = (base + slot * PAGE_BYTES for base in (self._requests, self._responses))
            self.rig.at(request, len(command.message))[:] = np.frombuffer(command.message, np.uint8)
            sqe = hsm_sqe(
                slot,
                source=request,
                source_bytes=len(command.message),
                destination=response,
                destination_bytes=PAGE_BYTES,
                control=SessionControl.of(kind=command.kind, id_valid=command.id_valid),
                session_id=command.session_id,
            )
            with self._lock:
                self._queue.submit(sqe)
            cqe = first(lambda: self._answer(slot), "a completion", every_s=0)
            sc = int(cqe["psf"]) >> 1 & 0x7FF
            message = self.rig.at(response, int(cqe["byte_count"])).tobytes()
            with self._lock:
                self._free.append(slot)
        flags = SessionControl(int(cqe["control"]))
        return HsmCompletion(message, flags, int(cqe["session_id"]), int(cqe["short_app_id"]), HsmStatus(sc))

    def _answer(self, slot: int) -> Any:
        with self._lock:
            while (cqe := self._queue.reap()) is not None:
                self._answers[int(cqe["cid"])] = cqe
            return self._answers.pop(slot, None)
