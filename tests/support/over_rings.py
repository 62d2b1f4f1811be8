# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A plug-in of pytest: tests that hand commands straight to a security module send them through rings and workers.

`pytest -p support.over_rings`. The express lane has its say there; with IHSM_EXPRESS=off there is none, here and in
served devices.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pytest

from ihsm_abi.hsm_queue import MAX_REQUEST_BYTES, ControlKind, HsmStatus, SessionControl
from ihsm_abi.pci import PAGE_BYTES
from ihsm_device.function import Function
from ihsm_device.hsm.command import HsmCommand, HsmCompletion
from ihsm_device.hsm.module import SecurityModule
from ihsm_device.scheduler import Scheduler
from ihsm_device.workers import WorkerPool
from support.hsm import ModuleReply, ModuleTransport
from support.polled import hsm_sqe
from support.rig import EngineRig
from support.waiting import first

OFF: Final = os.environ.get("IHSM_EXPRESS") == "off"
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


class Rings:
    """The paths of all modules, with threads that they share."""

    def __init__(self) -> None:
        self._scheduler = Scheduler()
        self._paths: weakref.WeakKeyDictionary[SecurityModule, RingPath] = weakref.WeakKeyDictionary()
        self._by_engine: dict[int, RingPath] = {}
        self._lock = threading.Lock()
        self._pool = WorkerPool(
            self._scheduler, lambda command: self._by_engine[id(command.engine)].function, express=True
        )
        self._pool.start()

    def exchange(
        self, transport: ModuleTransport, message: bytes, kind: ControlKind, session_id: int | None
    ) -> ModuleReply:
        command = HsmCommand(message, kind, session_id is not None, session_id or 0)
        if not 0 < len(message) <= MAX_REQUEST_BYTES:
            return ModuleReply(transport.module.execute(command))  # the engine would refuse it
        return ModuleReply(self._path(transport.module).execute(command))

    def _path(self, module: SecurityModule) -> RingPath:
        with self._lock:
            path = self._paths.get(module)
            if path is None:
                path = self._paths[module] = RingPath(module, self._scheduler)
                self._by_engine[id(path.rig.engine)] = path
            return path

    def taken(self) -> int:
        """Commands that the express lane has carried out."""
        return sum(path.rig.engine.counters()["hsm_express"] for path in self._by_engine.values())

    def close(self) -> None:
        self._pool.stop()
        for path in self._by_engine.values():
            path.rig.close()
        self._scheduler.close()


@pytest.fixture(scope="session", autouse=True)
def over_rings() -> Iterator[None]:
    """Commands to modules pass rings for as long as the run lasts."""
    patch = pytest.MonkeyPatch()
    rings = Rings()
    if OFF:
        patch.setattr(SecurityModule, "express", None)
    patch.setattr(ModuleTransport, "exchange", lambda *arguments: rings.exchange(*arguments))
    yield
    patch.undo()
    taken = rings.taken()
    rings.close()
    print(f"over rings: the express lane carried out {taken} commands")
