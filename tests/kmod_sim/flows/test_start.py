# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Devices that are wrong from their start, in what a driver asks for once (spec 01 §1, §4.1, §6.4)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.control import ControlClient
from ihsm.testing import DeviceFaults, faulty_device
from ihsm_abi.fault_words import from_words
from ihsm_abi.pci import AES_VECTORS, BAR_BYTES, Bar
from ihsm_abi.uapi import ControllerState
from ihsm_device.server import Server
from ihsm_kmod.kernel.errors import Errno
from support.claims import Covers
from support.hsm_driver import Driver, driver_on
from support.modules import ReversingModule
from support.waiting import HANG_S, until


@contextmanager
def bound(folder: Path, *faults: dict[str, Any], doorbell_page: bool = False) -> Iterator[tuple[Driver, Server]]:
    """The driver on a device with these faults; whether its probe succeeded is for the test to see."""
    made = [from_words(fault.pop("action"), fault) for fault in faults]
    server = Server(
        [folder / "s"], lambda index: ReversingModule(), resources=1, faults=made, doorbell_page=doorbell_page
    )
    server.start()
    try:
        with VfioUserFunction(folder / "s", timeout_s=HANG_S) as function, driver_on(function) as driver:
            yield driver, server
            assert [str(report) for report in driver.reports] == []
    finally:
        server.stop()


@pytest.mark.parametrize("size", [0, 16, 2048, 8192])
@pytest.mark.parametrize("bar", Bar)
def test_a_bar_of_another_size(socket_folder: Path, bar: Bar, size: int, covers: Covers) -> None:
    wrong = {"action": "wrong-bar-size", "bar": bar.name.lower(), "size": size}
    with bound(socket_folder, wrong) as (driver, server):
        assert driver.function.bar_bytes(bar) == size
        assert all(driver.function.bar_bytes(other) == BAR_BYTES for other in Bar if other != bar)
        assert driver.probe_error == errno.ENOMEM
        assert driver.function.accesses == [], "no register is touched"
        assert [standing.hits for standing in server.functions[0].faults.list()] == [1]
    covers("fault/wrong-bar-size")


def test_a_larger_bar_of_doorbells_cannot_be_mapped(socket_folder: Path) -> None:
    """There is one page of doorbells: a client that maps more would find its end."""
    wrong = {"action": "wrong-bar-size", "bar": "doorbells", "size": 2 * BAR_BYTES}
    with bound(socket_folder, wrong, doorbell_page=True) as (driver, _):
        assert driver.function.map_bar(Bar.DOORBELLS) is None


@pytest.mark.parametrize(
    ("vectors", "error"),
    [(0, errno.EINVAL), (2, errno.ENOSPC), (3, errno.EINVAL), (17, errno.EINVAL), (18, 0), (32, 0), (64, 0), (128, 0)],
)
def test_another_number_of_vectors(socket_folder: Path, vectors: int, error: int, covers: Covers) -> None:
    """With two AES queues it needs those up to 17; it never asks for more than 32."""
    with bound(socket_folder, {"action": "wrong-vectors", "vectors": vectors}) as (driver, _):
        assert driver.function.vectors == vectors
        assert driver.probe_error == error
        if not error:
            assert (driver.hsm().error, driver.aes().error, driver.aes().error) == (0, 0, 0)
            assert vectors > AES_VECTORS.start + 1
    covers("fault/wrong-vectors")


@pytest.mark.parametrize("field", ["cp_sqes", "cp_cqes", "fp_sqes", "fp_cqes"])
def test_an_entry_size_that_is_not_the_drivers(socket_folder: Path, field: str, covers: Covers) -> None:
    with bound(socket_folder, {"action": "wrong-identify", "field": field, "value": 0x55}) as (driver, server):
        assert driver.probe_error == errno.EINVAL
        assert server.functions[0].faults.hits(1) == 1
    covers("fault/wrong-identify")


def test_fields_that_it_only_shows(socket_folder: Path) -> None:
    wrong = [
        {"action": "wrong-identify", "field": "ctrl_id", "value": 0xBEEF},
        {"action": "wrong-identify", "field": "vid", "value": 0},
        {"action": "wrong-identify", "field": "svn", "value": 0xFFFF_FFFF_FFFF_FFFF},
    ]
    with bound(socket_folder, *wrong) as (driver, server):
        assert driver.probe_error == 0
        assert driver.controller.identity is not None
        assert driver.controller.identity["ctrl_id"] == 0xBEEF
        assert [standing.hits for standing in server.functions[0].faults.list()] == [1, 1, 1]
        assert driver.hsm().error == 0


@pytest.mark.parametrize("to", [0, 1, 255])
def test_how_long_it_waits_for_ready(socket_folder: Path, to: int, covers: Covers) -> None:
    """To the half second, by a clock that the test moves."""
    with bound(socket_folder, {"action": "wrong-cap-to", "to": to}) as (driver, server):
        assert driver.probe_error == 0
        assert driver.hsm().error == 0
        driver.stop_monitor()
        driver.unbind()
        faults = server.functions[0].faults
        never = faults.add(from_words("never-ready", {}))

        def bind() -> int:
            try:
                driver.bind()
            except Errno as error:
                return error.errno
            return 0

        waits = driver.machine.kernel.thread(bind, "bash")
        until(lambda: faults.hits(never) == 1, "it waits")
        seen = len(driver.function.accesses)
        until(lambda: len(driver.function.accesses) > seen + 2, "it has set its deadline")
        driver.clock.advance((to + 1) / 2 - 0.1)
        seen = len(driver.function.accesses)
        until(lambda: len(driver.function.accesses) > seen + 2, "it still looks")
        driver.clock.advance(0.2)
        assert waits.join() == errno.ETIMEDOUT
        assert faults.hits(1) > 0
    covers("fault/wrong-cap-to")


def test_ordinary_faults_from_the_start(socket_folder: Path) -> None:
    """They can be cleared; those of the start stay."""
    wrong = [{"action": "wrong-identify", "field": "vid", "value": 1}, {"action": "grant-queues", "hsm": 0}]
    with bound(socket_folder, *wrong) as (driver, server):
        assert driver.probe_error == errno.ENOMEM
        assert server.functions[0].faults.clear() == 1
        driver.bind()
        driver.stop_monitor()
        assert driver.controller.state is ControllerState.READY


def test_a_process_of_its_own() -> None:
    """As programs that test a driver have it."""
    wrong = {"action": "wrong-cap-to", "to": 0}, {"action": "drop-completion", "queue": 0, "count": 1}
    with (
        faulty_device(*wrong) as device,
        VfioUserFunction(device.socket_path, timeout_s=HANG_S) as function,
        DeviceFaults(device) as faults,
    ):
        assert [entry.fault.action for entry in faults.standing()] == ["wrong-cap-to", "drop-completion"]
        with ControlClient(device.socket_path) as client:
            assert client.clear_faults() == 1
        with driver_on(function) as driver:
            assert driver.probe_error == 0
            assert driver.hsm().error == 0
