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
from typing import Final

import pytest

from ihsm_abi.hsm_queue import MAX_REQUEST_BYTES, ControlKind
from ihsm_device.hsm.command import HsmCommand
from ihsm_device.hsm.module import SecurityModule
from ihsm_device.scheduler import Scheduler
from ihsm_device.workers import WorkerPool
from support.hsm import ModuleReply, ModuleTransport
from support.ring_path import RingPath

OFF: Final = os.environ.get("IHSM_EXPRESS") == "off"
WITHOUT_RINGS: Final = {
    "test_undelivered.py": "takes back what the module made, as if its answer had not arrived",
    "test_open_session_response_and_completion": "looks at what the module gives its queue to take back",
}
"""Tests that need the module's own completion."""


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot pass through rings."""
    kept = [item for item in items if not any(name in item.nodeid for name in WITHOUT_RINGS)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
