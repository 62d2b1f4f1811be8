# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Worker threads over the loopback host: lanes, functions that wait, commands that were cancelled, the end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus, Psf
from ihsm_abi.hsm_queue import HsmStatus
from ihsm_abi.registers import Register
from ihsm_device.engine import Engine
from ihsm_device.function import Function
from ihsm_device.hosts import LoopbackHost
from ihsm_device.scheduler import SLOW_BACKLOG, Scheduler
from ihsm_device.workers import WorkerPool
from support.loopback import LoopbackFunction
from support.modules import ReversingModule
from support.polled import PolledDriver, Ring, admin_sqe, hsm_sqe
from support.waiting import HANG_S, until


@pytest.fixture
def module() -> ReversingModule:
    return ReversingModule()


@pytest.fixture
def driver(module: ReversingModule) -> Iterator[PolledDriver]:
    with LoopbackFunction(module, resources=2) as function:
        driver = PolledDriver(function)
        driver.enable()
        yield driver
        module.gate.set()


def slow_threads() -> int:
    """As many as processors, at least 2 (docs/architecture.md)."""
    return max(2, os.cpu_count() or 1)


def submit(driver: PolledDriver, ring: Ring, text: bytes) -> None:
    page = driver.arena.allocate_pages(4096)
    page.view[: len(text)] = np.frombuffer(text, np.uint8)
    ring.submit(
        hsm_sqe(
            driver.next_cid(),
            source=page.iova,
            source_bytes=len(text),
            destination=driver.answer_page.iova,
            destination_bytes=4096,
        )
    )


def test_cancelled_commands_are_not_executed(driver: PolledDriver, module: ReversingModule) -> None:
    """More slow commands than threads; those that had not begun when the controller was disabled never do."""
    threads = slow_threads()
    entries = 4 * threads
    ring = driver.create_pair(1, entries=entries)
    for _ in range(entries - 1):
        submit(driver, ring, b"slow")
    for _ in range(threads):
        assert module.started.acquire(timeout=HANG_S)
    driver.disable()
    module.gate.set()
    driver.enable()
    driver.create_pair(1)
    # A function's commands are taken in order: when a later one is carried out, the cancelled ones were passed over.
    assert driver.run_hsm(b"slow after").message == b"retfa wols"
    assert module.started.acquire(blocking=False)
    assert not module.started.acquire(blocking=False), "a cancelled command was executed"
    until(lambda: len(module.rollbacks) >= threads, "what was executed in vain is taken back")
    assert module.rollbacks == [b"slow"] * threads


def test_backlog_of_slow_commands_is_bounded(driver: PolledDriver, module: ReversingModule) -> None:
    """A guest that floods the slow lane gets errors for what exceeds it; the rest and fast commands are served."""
    flood = SLOW_BACKLOG + 500
    ring = Ring(driver.function, driver.arena, 1, 2048)
    assert driver.create_cq(ring).status == driver.create_sq(ring).status == AdminStatus.SUCCESS
    page = driver.arena.allocate_pages(4096)
    page.view[:4] = np.frombuffer(b"slow", np.uint8)
    for _ in range(flood):
        ring.put(
            hsm_sqe(driver.next_cid(), source=page.iova, source_bytes=4, destination=page.iova, destination_bytes=4)
        )
    ring.ring()
    driver.create_pair(2)
    assert driver.run_hsm(b"quick", queue_id=2).message == b"kciuq"
    for _ in range(400):  # nothing else can complete while the gate is shut
        assert Psf(ring.wait()["psf"]).sc == HsmStatus.INTERNAL_ERROR
    module.gate.set()
    refused = sum(Psf(ring.wait()["psf"]).sc == HsmStatus.INTERNAL_ERROR for _ in range(flood - 400))
    assert refused < 100


def test_delete_of_one_function_does_not_hold_up_another() -> None:
    """Two functions of one process: the first waits in DELETE_SQ, the second's admin commands go on."""
    scheduler = Scheduler()
    modules = [ReversingModule(), ReversingModule()]
    hosts = [LoopbackHost(), LoopbackHost()]
    functions = [Function(Engine(scheduler, hosts[index]), modules[index], index=index) for index in range(2)]
    by_engine = {id(function.engine): function for function in functions}
    pool = WorkerPool(scheduler, lambda command: by_engine.get(id(command.engine)), functions=2)
    pool.start()
    clients = [LoopbackFunction.around(*pair) for pair in zip(functions, hosts, strict=True)]
    drivers = [PolledDriver(client) for client in clients]
    for each in drivers:
        each.enable()
    submit(drivers[0], drivers[0].create_pair(1), b"slow")
    assert modules[0].started.acquire(timeout=HANG_S)
    drivers[0].admin.submit(admin_sqe(AdminOpcode.DELETE_SQ, 77, dw10=1))
    for _ in range(20):
        assert drivers[1].run_admin(AdminOpcode.GET_RES_CNT, dw10=2).dw0 == 1
    assert drivers[0].admin.poll() is None
    modules[0].gate.set()
    assert drivers[0].admin.wait()["cid"] == 77
    pool.stop()
    for client in clients:
        client.release()
    scheduler.close()


def test_commands_of_a_vanished_function_are_dropped(module: ReversingModule) -> None:
    scheduler, host = Scheduler(), LoopbackHost()
    client = LoopbackFunction.around(Function(Engine(scheduler, host), module), host)
    looked_for = threading.Event()
    pool = WorkerPool(scheduler, lambda command: looked_for.set())
    pool.start()
    driver = PolledDriver(client)
    driver.enable()
    driver.admin.submit(admin_sqe(AdminOpcode.GET_RES_CNT, 1))
    assert looked_for.wait(HANG_S)
    pool.stop()
    assert driver.admin.poll() is None
    client.release()
    scheduler.close()


def test_stop_ends_every_thread(module: ReversingModule) -> None:
    before = threading.active_count()
    with LoopbackFunction(module) as function:
        driver = PolledDriver(function)
        driver.enable()
        driver.create_pair(1)
        driver.run_hsm(b"abc")
        assert threading.active_count() > before
    until(lambda: threading.active_count() == before, "the end of every thread")


def test_admin_rings_without_pointer(driver: PolledDriver, caplog: pytest.LogCaptureFixture) -> None:
    function = driver.function
    assert isinstance(function, LoopbackFunction)
    function.host.map_without_pointer(0x4000_0000, 0x10000)
    driver.disable()
    driver.write(Register.ACQ, 0x4000_0000, 8)
    driver.write(Register.CC, 1)
    assert driver.csts == 0
    assert "share=on" in caplog.text
    driver.disable()
    driver.enable()
    identify = driver.run_admin(AdminOpcode.IDENTIFY, prp1=0x4000_0000)
    assert identify.status == AdminStatus.DATA_TRANSFER_ERROR, "an ordinary bad address"
