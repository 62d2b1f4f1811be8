# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings of the driver model: it keeps all rules, of memory too; and mistakes put into it are named by theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.trace.files import numbered
from ihsm.trace.rules import judge
from ihsm_abi.aes_queue import AesStatus
from ihsm_abi.uapi import AbortType
from ihsm_kmod.hsm import sgl
from ihsm_kmod.hsm.admin import AdminCommands
from ihsm_kmod.hsm.queue import IoQueue
from ihsm_kmod.kernel.errors import Errno
from support.hsm_driver import Driver, driver_on
from support.hsm_program import CREDENTIAL, ask, encrypt, program, provisioned, reset
from support.live_recording import LiveRecording
from support.process import serve
from support.waiting import HANG_S


@pytest.fixture
def record(socket_folder: Path) -> Iterator[Callable[..., Any]]:
    """Records a driver in a block; the names of the rules that it broke are in the list that the block gets."""

    @contextmanager
    def recorded(dma: str = "strict") -> Iterator[tuple[Driver, list[str]]]:
        broken: list[str] = []
        with (
            LiveRecording(server.paths[0]) as recording,
            VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
            driver_on(function, dma=dma) as driver,
        ):
            driver.stop_monitor()
            yield driver, broken
        verdict = judge(numbered(recording.records))
        assert verdict.undecided == []
        broken += dict.fromkeys(breach.rule.name for breach in verdict.breaches)

    with serve("--socket", str(socket_folder / "s")) as server:
        yield recorded


def work(driver: Driver) -> None:
    """Commands of a program, some with memory that is mapped for them alone."""
    (node,) = driver.machine.kernel.vfs.listdir("/dev")
    caller = program(driver, node=f"/dev/{node}")
    session = provisioned(caller).open_session(CREDENTIAL)
    for _ in range(3):
        assert encrypt(caller, session.session_id).answer["result"] == AesStatus.INVALID_FIELD_GCM
        assert ask(caller).error == 0
    caller.process.close(caller.fd)


@pytest.mark.parametrize("dma", ["strict", "shared"])
def test_a_life_of_the_model(record: Callable[..., Any], dma: str) -> None:
    with record(dma) as (driver, broken):
        work(driver)
        caller = program(driver)
        assert reset(caller, AbortType.L2_NSSR).error == 0
        caller.process.close(caller.fd)
        driver.unbind()
        driver.bind()
        driver.stop_monitor()
        driver.unbind()
        assert driver.reports == []
    assert broken == []


def test_an_unmap_that_is_forgotten(record: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with record() as (driver, broken):
        monkeypatch.setattr(sgl, "dma_unmap_sg", lambda *_: None)
        work(driver)
        monkeypatch.undo()
        driver.unbind()
        driver.bind()
        driver.stop_monitor()
        driver.unbind()
    assert broken == ["mapping-left"]


def test_a_cq_that_is_deleted_first(record: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def delete(queue: IoQueue, admin: AdminCommands) -> None:
        with contextlib.suppress(Errno):
            admin.delete_cq(queue.id)
        admin.delete_sq(queue.id)

    with record() as (driver, broken):
        work(driver)
        monkeypatch.setattr(IoQueue, "delete", delete)
        driver.unbind()
    assert broken == ["delete-order", "ring-kept"], "the CQ is still there when its memory goes"


def test_rings_that_are_freed_first(record: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    delete = IoQueue.delete

    def free_and_delete(queue: IoQueue, admin: AdminCommands) -> None:
        queue.free()
        delete(queue, admin)

    with record() as (driver, broken):
        work(driver)
        monkeypatch.setattr(IoQueue, "delete", free_and_delete)
        driver.unbind()
    assert broken == ["ring-kept"]
