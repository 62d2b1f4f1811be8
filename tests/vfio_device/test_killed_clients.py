# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Clients killed at random points of bring-up: the server survives, loses nothing, and serves the next one."""

from __future__ import annotations

import multiprocessing
import random
from pathlib import Path
from typing import Final

import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi.admin import AdminOpcode, AdminStatus
from support.killed import CONNECTED, LONGEST_PAUSE_S, STEPS, kill_one
from support.polled import PolledDriver
from support.process import serve, settled

WARM_UP: Final = 20
GROWTH_KIB: Final = 1024
"""Heap that may settle over the clients; a leaked region, thread or context would be many times that."""


@pytest.mark.parametrize("clients", [30, pytest.param(180, marks=pytest.mark.long)])
def test_killed_clients(socket_folder: Path, clients: int) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.killed", "ihsm.bus", "ihsm_abi.ddi"])
    chance = random.Random(3)
    with serve("--socket", str(socket_folder / "a.sock"), "--log-level", "error") as server:
        path = server.paths[0]
        connected = 0
        for _ in range(WARM_UP):
            kill_one(context, path, chance.randrange(1, STEPS), chance.random() * LONGEST_PAUSE_S)
        files, threads, memory = settled(server)
        for _ in range(clients):
            steps = chance.randrange(1, STEPS)
            connected += steps >= CONNECTED
            kill_one(context, path, steps, chance.random() * LONGEST_PAUSE_S)
        files_after, threads_after, memory_after = settled(server)
        assert (files_after, threads_after) == (files, threads)
        assert memory_after < memory + GROWTH_KIB, f"grew from {memory} to {memory_after} KiB"
        assert server.status()["counters"]["clients_lost"] >= connected
        with VfioUserFunction(path) as function:
            driver = PolledDriver(function)
            driver.enable()
            assert driver.run_admin(AdminOpcode.IDENTIFY, prp1=driver.page.iova).status == AdminStatus.SUCCESS
        assert server.stop() == 0
    assert not any("Traceback" in line for line in server.errors), "".join(server.errors)
