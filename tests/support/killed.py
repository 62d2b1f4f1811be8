# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Clients that are killed: in a module of its own, since their processes import it by name."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

from ihsm.bus import VfioUserFunction
from ihsm_abi.admin import AdminOpcode
from ihsm_abi.ddi import GetApiRevReq, encode_request
from ihsm_abi.pci import MSIX_VECTORS
from support.polled import PolledDriver


def bring_up(path: str, started: Connection) -> None:
    """A client that goes through bring-up again and again until it is killed."""
    started.send_bytes(b"go")
    with VfioUserFunction(path) as function:
        driver = PolledDriver(function)
        while True:
            function.enable_interrupts([os.eventfd(0) for _ in range(MSIX_VECTORS)])
            driver.enable()
            driver.run_admin(AdminOpcode.IDENTIFY, prp1=driver.page.iova)
            driver.create_pair(1, vector=1)
            driver.create_pair(256, vector=16)
            for _ in range(3):
                driver.run_hsm(encode_request(GetApiRevReq()))
            function.reset()


def kill_one(context: multiprocessing.context.ForkServerContext, path: Path, life_s: float) -> None:
    receiver, sender = context.Pipe(duplex=False)
    client = context.Process(target=bring_up, args=(str(path), sender), daemon=True)
    client.start()
    sender.close()
    receiver.recv_bytes()
    time.sleep(life_s)
    client.kill()
    client.join()
    client.close()
    receiver.close()
