# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device between two tests: what the next one finds."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ihsm.control import ControlClient
from ihsm.pytest_plugin.device import reset
from ihsm_device.server import Server
from support.modules import ReversingModule

LOOKS = 3
"""How often somebody asks who has the function, and is told nobody, before its client's end is dealt with."""


def test_a_device_is_reset_only_when_its_client_has_gone_for_good(
    socket_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = socket_folder / "f.sock"
    server = Server([path], lambda index: ReversingModule())
    controller = server.functions[0].controller
    lose, ask = controller.client_lost, ControlClient.status
    looks = threading.Semaphore(0)

    def late() -> None:
        for _ in range(LOOKS):
            looks.acquire()
        lose()

    def counted(control: ControlClient) -> dict[str, Any]:
        status = ask(control)
        if status["client"] is None:
            looks.release()
        return status

    monkeypatch.setattr(controller, "client_lost", late)
    monkeypatch.setattr(ControlClient, "status", counted)
    server.start()
    try:
        reset(path)
        with ControlClient(path) as control:
            status = ask(control)
    finally:
        monkeypatch.undo()
        for _ in range(LOOKS):
            looks.release()
        server.stop()
    assert status["counters"]["clients_lost"] == 1
    assert status["registers"]["CC"] == 0
