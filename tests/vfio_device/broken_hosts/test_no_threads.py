# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device that serves and gets no more threads: what needs one is refused with a status, all else goes on."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi.admin import AdminStatus
from ihsm_abi.aes_queue import GCM_SQE
from ihsm_abi.ddi import GetApiRevReq, encode_request
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.hsm_queue import HsmStatus
from ihsm_abi.resources import FIRST_AES_QUEUE_ID, FIRST_HSM_QUEUE_ID
from ihsm_device.client_memory import ClientMemory
from ihsm_device.sandbox.lookout import Lookout
from ihsm_device.vfu import DmaRegion
from support.hosts import no_threads_here
from support.polled import PolledDriver, Ring
from support.process import ServeProcess, serve
from support.stores import in_child
from support.waiting import HANG_S, until

REVISION = encode_request(GetApiRevReq())
MAPS = b"7f0000000000-7f0000100000 rw-p 00000000 00:01 17 /memfd:guest (deleted)\n"


def limit_threads(server: ServeProcess, most: int) -> int:
    """Let the server's user have so many processes and threads; how many it could have before.

    Done by that user: even root needs a capability to do it for another.
    """
    user = server.status()["sandbox"]["user"] if os.geteuid() == 0 else None

    def limit() -> int:
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_NPROC)
        before, _ = resource.prlimit(server.pid, resource.RLIMIT_NPROC, (most, hard))
        return before

    before = in_child(limit, user=user)
    assert isinstance(before, int), before
    return before


@contextmanager
def no_threads(server: ServeProcess) -> Iterator[None]:
    """The server's user has as many as it may have."""
    before = limit_threads(server, 1)
    try:
        yield
    finally:
        limit_threads(server, before)


def test_a_driver_comes_up_and_is_refused_what_nobody_would_serve(open_folder: Path) -> None:
    """That nobody can look at the client's mappings is no reason to refuse it; an AES queue without a worker would
    leave its commands without an answer."""
    with (
        serve("--socket", str(open_folder / "a.sock")) as server,
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
    ):
        driver = PolledDriver(function)
        with no_threads(server):
            driver.enable()
            driver.create_pair(FIRST_HSM_QUEUE_ID)
            aes = Ring(function, driver.arena, FIRST_AES_QUEUE_ID, 16)
            assert driver.create_cq(aes).status == AdminStatus.SUCCESS
            assert driver.create_sq(aes).status == AdminStatus.INTERNAL_ERROR
            assert driver.run_hsm(REVISION).sc == HsmStatus.SUCCESS
        until(lambda: any("admin command" in line for line in server.errors), "a line about it")
        assert "Resource temporarily unavailable" in server.errors[-1]
        assert driver.create_sq(aes).status == AdminStatus.SUCCESS
        entry = np.zeros((), GCM_SQE)
        aes.run(entry.tobytes())
        driver.close()
        assert server.stop() == 0


def test_a_fault_that_needs_a_thread_is_refused(open_folder: Path) -> None:
    fault = {"action": FaultAction.HOLD_COMMAND}
    with serve("--socket", str(open_folder / "a.sock")) as server:
        with no_threads(server):
            answer = server.control("fault.add", **fault)
            assert answer.error_code == "failed"
            assert server.status()["faults"] == []
        assert server.control("fault.add", **fault).result is not None


def test_who_looks_at_a_client_without_a_thread_does_not_know_and_looks_again() -> None:
    memory = ClientMemory(lambda client: MAPS)
    memory.mapped(DmaRegion(4096, 4096, True, (os.makedev(0, 1), 17)))
    client, other = socket.socketpair()
    with client, other:
        with no_threads_here():
            assert memory.private_address(client) is None
        assert memory.private_address(client) == 4096


def test_the_process_that_looks_at_clients_outlives_a_want_of_threads() -> None:
    with no_threads_here():
        lookout = Lookout(1)  # the process that is forked never gets one
    read = lookout.reader(0)
    client, other = socket.socketpair()
    with client, other:
        for _ in range(2):
            with pytest.raises(PermissionError):
                read(client)
    lookout.close()
