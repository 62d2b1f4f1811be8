# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Admin commands over both hosts (spec 01 §6, §14.4)."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import numpy as np
import pytest

from ihsm_abi.admin import IDENTIFY, AdminOpcode, AdminStatus
from ihsm_abi.hsm_queue import ControlKind, SessionControl
from ihsm_device.version import VERSION
from support.devices import DeviceUnderTest
from support.polled import PolledDriver, Ring, admin_sqe, hsm_sqe
from support.waiting import HANG_S, ended

UNMAPPED = 0x7777_0000_0000


def test_identify_writes_exactly_its_structure(driver: PolledDriver, device: DeviceUnderTest) -> None:
    driver.enable()
    driver.page.view[:] = 0xEE
    assert driver.run_admin(AdminOpcode.IDENTIFY, dw10=1, prp1=driver.page.iova).status == AdminStatus.SUCCESS
    assert (driver.page.view[IDENTIFY.itemsize :] == 0xEE).all()
    page = driver.page.view[: IDENTIFY.itemsize].tobytes()
    identity = np.frombuffer(page, IDENTIFY, 1)[0]
    assert (identity["vid"], identity["ssvid"], identity["ctrl_id"], identity["ver"]) == (0x1414, 0x1414, 1, 0x10400)
    assert (page[77], page[78], page[83], page[84]) == (0x66, 0x44, 0x77, 0x66)
    assert page[4:36] == f"{device.module.serial:016X}".encode().ljust(32)
    assert page[36:68] == VERSION.encode().ljust(32)
    assert (identity["cp_mdts"], identity["fp_mdts"], identity["cp_maxcmd"], identity["fp_maxcmd"]) == (13, 13, 2, 4)
    assert (page[100], page[101]) == (1, 0)


@pytest.mark.parametrize(
    ("prp1", "status"), [(0, AdminStatus.INTERNAL_ERROR), (UNMAPPED, AdminStatus.DATA_TRANSFER_ERROR)]
)
def test_identify_without_a_good_buffer(driver: PolledDriver, prp1: int, status: AdminStatus) -> None:
    driver.enable()
    assert driver.run_admin(AdminOpcode.IDENTIFY, dw10=1, prp1=prp1).status == status
    assert driver.run_admin(AdminOpcode.IDENTIFY, dw10=1, prp1=driver.page.iova).status == AdminStatus.SUCCESS


def test_admin_ring_wraps_many_times(driver: PolledDriver) -> None:
    driver.enable()
    for _ in range(5 * driver.admin_entries):
        assert driver.run_admin(AdminOpcode.GET_FEATURES, dw10=0xC2).dw0 == 1


def test_burst_of_admin_commands_completes_in_order(driver: PolledDriver) -> None:
    driver.enable()
    for _ in range(3):
        cids = [driver.next_cid() for _ in range(driver.admin_entries - 1)]
        for cid in cids:
            driver.admin.put(admin_sqe(AdminOpcode.GET_RES_CNT, cid))
        driver.admin.ring()
        assert [int(driver.admin.wait()["cid"]) for _ in cids] == cids


@pytest.mark.resources(65)
def test_every_queue_of_the_largest_function(driver: PolledDriver) -> None:
    driver.enable()
    assert driver.run_admin(AdminOpcode.SET_FEATURES, dw10=0x07, dw11=0x00800080).dw0 == 64 << 16 | 64
    assert driver.run_admin(AdminOpcode.SET_FEATURES, dw10=0xC1, dw11=0x00800080).dw0 == 129 << 16 | 129
    shared = Ring(driver.function, driver.arena, 1, 16)
    for queue_id in (*range(1, 66), *range(256, 386)):
        shared.queue_id = queue_id
        assert driver.create_cq(shared).status == AdminStatus.SUCCESS
        assert driver.create_sq(shared).status == AdminStatus.SUCCESS
    for queue_id in (66, 386):
        shared.queue_id = queue_id
        assert driver.create_cq(shared).status == AdminStatus.INVALID_QUEUE_ID
    for queue_id in (*range(256, 386), *range(1, 66)):
        assert driver.run_admin(AdminOpcode.DELETE_SQ, dw10=queue_id).status == AdminStatus.SUCCESS
        assert driver.run_admin(AdminOpcode.DELETE_CQ, dw10=queue_id).status == AdminStatus.SUCCESS


def test_status_lists_the_queues(driver: PolledDriver, device: DeviceUnderTest) -> None:
    driver.enable()
    driver.create_pair(2, vector=3)
    driver.create_pair(257)
    for _ in range(5):
        driver.run_hsm(b"abc", queue_id=2)
    assert driver.run_admin(AdminOpcode.DELETE_SQ, dw10=257).status == AdminStatus.SUCCESS
    status = device.device.status()
    queues = {queue["queue_id"]: queue for queue in status["queues"]}
    assert list(queues) == [0, 2, 257]
    assert (queues[2]["sq_head"], queues[2]["sq_tail"], queues[2]["cq_tail"], queues[2]["vector"]) == (5, 5, 5, 3)
    assert (queues[257]["has_sq"], queues[257]["has_cq"], queues[257]["vector"]) == (False, True, None)
    assert (queues[0]["sq_entries"], queues[0]["stopped"]) == (16, False)
    assert status["registers"]["CSTS"] == 1
    assert status["counters"]["admin_commands"] == 5
    driver.disable()
    assert device.device.status()["queues"] == []


def test_delete_waits_for_fetched_commands(driver: PolledDriver, device: DeviceUnderTest) -> None:
    """Level-1 abort: what was fetched posts its completion first, and the CQ goes on where it was (spec 01 §8.2)."""
    driver.enable()
    hsm = driver.create_pair(1)
    assert driver.run_hsm(b"first").message == b"tsrif"
    driver.page.view[:4] = np.frombuffer(b"slow", np.uint8)
    _submit_from_page(driver, hsm, 4)
    assert device.module.started.acquire(timeout=HANG_S)
    driver.admin.submit(admin_sqe(AdminOpcode.DELETE_SQ, driver.next_cid(), dw10=1))
    assert hsm.poll() is None
    assert driver.admin.poll() is None
    device.module.gate.set()
    assert driver.admin.wait()["psf"] >> 1 == AdminStatus.SUCCESS
    assert hsm.poll() is not None, "the completion must be there before that of DELETE_SQ"
    hsm.restart_sq()
    assert driver.create_sq(hsm).status == AdminStatus.SUCCESS
    assert driver.run_hsm(b"second").message == b"dnoces"


@pytest.mark.parametrize("how", ["disable", "nssr", "device", "function level"])
def test_reset_while_a_delete_waits(
    driver: PolledDriver, device: DeviceUnderTest, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reset ends the deletion, which here would wait longer for the command than this test for the reset."""
    engine = device.device.engine
    monkeypatch.setattr(engine, "delete_sq", functools.partial(engine.delete_sq, timeout_s=10 * HANG_S))
    driver.enable()
    hsm = driver.create_pair(1)
    driver.page.view[:4] = np.frombuffer(b"slow", np.uint8)
    _submit_from_page(driver, hsm, 4)
    assert device.module.started.acquire(timeout=HANG_S)
    driver.admin.submit(admin_sqe(AdminOpcode.DELETE_SQ, driver.next_cid(), dw10=1))
    resets: dict[str, Callable[[], None]] = {
        "disable": driver.disable,
        "nssr": driver.nssr,
        "device": driver.function.reset,
        "function level": device.level_reset,
    }
    reset = threading.Thread(target=resets[how], daemon=True)
    reset.start()
    ended(reset)
    assert driver.csts == 0
    rings = hsm.cq_memory.view.copy(), driver.admin.cq_memory.view.copy()
    device.module.gate.set()
    if how == "nssr":
        driver.disable()
    memory = hsm.cq_memory, driver.admin.cq_memory
    driver.rings.clear()  # keep the old memory apart, to see that nothing is written to it
    driver.enable()
    driver.create_pair(1)
    assert driver.run_hsm(b"again").message == b"niaga"
    for before, after in zip(rings, memory, strict=True):
        assert (before == after.view).all()


def test_hsm_commands_go_on_while_slow_ones_wait(driver: PolledDriver, device: DeviceUnderTest) -> None:
    driver.enable()
    hsm = driver.create_pair(1, entries=64)
    slow_page = driver.arena.allocate_pages(4096)
    slow_page.view[:4] = np.frombuffer(b"slow", np.uint8)
    for _ in range(30):
        _submit_from_page(driver, hsm, 4, source=slow_page.iova)
    driver.create_pair(2)
    for _ in range(20):
        answer = driver.run_hsm(b"quick", queue_id=2)
        assert answer.message == b"kciuq"
    assert hsm.poll() is None
    device.module.gate.set()
    for _ in range(30):
        hsm.wait()


def test_control_fields_reach_the_module_and_come_back(driver: PolledDriver) -> None:
    driver.enable()
    driver.create_pair(1)
    control = SessionControl.of(kind=ControlKind.IN_SESSION, id_valid=1)
    answer = driver.run_hsm(b"abc", control=control, session_id=5)
    assert (answer.sc, answer.message, answer.flags, answer.session_id) == (0, b"cba", control, 5)
    flush = SessionControl.of(kind=ControlKind.CLOSE, id_valid=1)
    answer = driver.run_hsm(b"", control=flush, session_id=4, opcode=1)
    assert (answer.sc, answer.message, answer.flags, answer.session_id) == (0, b"", 0x16, 4)


def test_failing_module_gives_internal_error(driver: PolledDriver, caplog: pytest.LogCaptureFixture) -> None:
    driver.enable()
    driver.create_pair(1)
    answer = driver.run_hsm(b"fail")
    assert (answer.sc, answer.message) == (0x07, b"")
    assert driver.run_hsm(b"on").message == b"no"


def test_response_that_cannot_be_written_is_taken_back(driver: PolledDriver, device: DeviceUnderTest) -> None:
    driver.enable()
    hsm = driver.create_pair(1)
    driver.page.view[:4] = np.frombuffer(b"keep", np.uint8)
    _submit_from_page(driver, hsm, 4, destination=UNMAPPED)
    assert (hsm.wait()["psf"] >> 1) & 0x7FF == 0xC6
    assert device.module.rollbacks == [b"keep"]
    assert driver.run_hsm(b"on").message == b"no"


def test_short_destination_is_never_exceeded(driver: PolledDriver) -> None:
    driver.enable()
    hsm = driver.create_pair(1)
    driver.page.view[:4] = np.frombuffer(b"long", np.uint8)
    driver.answer_page.view[:] = 0xEE
    _submit_from_page(driver, hsm, 4, destination_bytes=10)
    assert hsm.wait()["byte_count"] == 3584
    assert driver.answer_page.view[:10].tobytes() == b"gnol......"
    assert (driver.answer_page.view[10:] == 0xEE).all()


def _submit_from_page(
    driver: PolledDriver,
    ring: Ring,
    source_bytes: int,
    *,
    source: int | None = None,
    destination: int | None = None,
    destination_bytes: int = 4096,
) -> None:
    ring.submit(
        hsm_sqe(
            driver.next_cid(),
            source=driver.page.iova if source is None else source,
            source_bytes=source_bytes,
            destination=driver.answer_page.iova if destination is None else destination,
            destination_bytes=destination_bytes,
        )
    )
