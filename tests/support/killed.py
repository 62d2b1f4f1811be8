# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Clients that are killed: in a module of its own, since their processes import it by name."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from ihsm.bus import VfioUserFunction
from ihsm_abi.admin import AdminOpcode
from ihsm_abi.ddi import GetApiRevReq, encode_request
from ihsm_abi.pci import MSIX_VECTORS
from support.polled import PolledDriver
from support.waiting import HANG_S

CONNECTED: Final = 2
"""Steps after which a client is known to have connected."""
STEPS: Final = 20
"""More than two laps of `bring_up`."""
LONGEST_PAUSE_S: Final = 0.002
"""About as long as the longest step on an idle machine: the kill comes anywhere within one."""


def bring_up(path: str, progress: Connection) -> None:
    """A client that goes through bring-up again and again until it is killed, and tells of each step."""
    progress.send_bytes(b"go")
    with VfioUserFunction(path, timeout_s=HANG_S) as function:
        progress.send_bytes(b"connected")
        driver = PolledDriver(function)
        while True:
            for step in (
                lambda: function.enable_interrupts([os.eventfd(0) for _ in range(MSIX_VECTORS)]),
                driver.enable,
                lambda: driver.run_admin(AdminOpcode.IDENTIFY, prp1=driver.page.iova),
                lambda: driver.create_pair(1, vector=1),
                lambda: driver.create_pair(256, vector=16),
                lambda: driver.run_hsm(encode_request(GetApiRevReq())),
                lambda: driver.run_hsm(encode_request(GetApiRevReq())),
                function.reset,
            ):
                step()
                progress.send_bytes(b"step")


def kill_one(context: multiprocessing.context.ForkServerContext, path: Path, steps: int, pause_s: float) -> None:
    """Run a client for so many steps and a pause, which is shorter than most steps, and kill it."""
    receiver, sender = context.Pipe(duplex=False)
    client = context.Process(target=bring_up, args=(str(path), sender), daemon=True)
    client.start()
    sender.close()
    for _ in range(steps):
        receiver.recv_bytes()
    time.sleep(pause_s)
    client.kill()
    client.join()
    client.close()
    receiver.close()
