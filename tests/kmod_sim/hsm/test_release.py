# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Who may use a file, and what the end of it does to its session (spec 02 A.3, B.5)."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ihsm_abi.admin import Psf
from ihsm_abi.hsm_queue import HSM_CQE, ControlKind, HsmStatus
from ihsm_abi.registers import Register
from ihsm_abi.uapi import RESET_DEVICE, AbortType, ControllerState, InternalCode, Ioctl
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.hsm.hsm_command import flush_entry
from ihsm_kmod.hsm.hsm_device import HsmDevice
from ihsm_kmod.hsm.queue_pool import QueuePool
from ihsm_kmod.kernel.errors import Oops
from ihsm_kmod.kernel.report import ReportKind
from support.bent_function import BentFunction
from support.hsm_driver import Driver, driver_on
from support.hsm_program import (
    CREDENTIAL,
    Sent,
    api_revision_request,
    command,
    context,
    is_awaited,
    program,
    provisioned,
    scripted,
)
from support.ioctls import Caller, hsm_cqe, structure
from support.waiting import HANG_S, until

Covers = Callable[..., None]


def with_session(caller: Caller) -> int:
    """Provision the device and open a session; its id."""
    return provisioned(caller).open_session(CREDENTIAL).session_id


def flushes(driver: Driver) -> int:
    return driver.controller.counters.session_flush_cnt


def open_files(driver: Driver) -> int:
    """Contexts that are allocated."""
    device = driver.controller.hsm_device
    assert isinstance(device, HsmDevice)
    return len(device.open_files)


def test_flush_of_the_example() -> None:
    """02 H.3, but for the command id."""
    expected = bytearray(64)
    expected[0], expected[44], expected[48] = 1, 6, 3
    assert flush_entry(3) == expected


def test_close_flushes_the_session(driver: Driver, monkeypatch: pytest.MonkeyPatch, covers: Covers) -> None:
    caller = program(driver)
    session_id = with_session(caller)
    sent = Sent(driver.controller, monkeypatch)
    caller.process.close(caller.fd)
    assert sent.entries[0][4:] == flush_entry(session_id)[4:]
    assert len(sent.entries) == 1
    completion = np.frombuffer(sent.outcomes[0].cqe or b"", HSM_CQE)[0]
    assert (completion["control"], completion["session_id"]) == (0x16, session_id), "the device has closed it"
    assert (flushes(driver), open_files(driver)) == (1, 0)
    covers("kmod/A.3/release-flush")


def test_close_without_session_sends_nothing(driver: Driver, monkeypatch: pytest.MonkeyPatch, covers: Covers) -> None:
    sent = Sent(driver.controller, monkeypatch)
    caller = program(driver)
    caller.process.close(caller.fd)
    assert (sent.entries, flushes(driver), open_files(driver)) == ([], 0, 0)
    covers("kmod/A.3/release-empty")


def test_the_last_descriptor_counts(driver: Driver, covers: Covers) -> None:
    caller = program(driver)
    with_session(caller)
    other = caller.process.dup(caller.fd)
    caller.process.close(caller.fd)
    assert flushes(driver) == 0
    caller.process.close(other)
    assert flushes(driver) == 1
    covers("kmod/A.3/release-last")


def test_the_end_of_a_process_closes_its_files(driver: Driver) -> None:
    caller = program(driver)
    with_session(caller)
    caller.process.exit()
    assert (flushes(driver), open_files(driver)) == (1, 0)


def test_any_number_of_opens_in_any_state(driver: Driver, monkeypatch: pytest.MonkeyPatch, covers: Covers) -> None:
    first, second = program(driver), program(driver)
    monkeypatch.setattr(driver.controller, "state", ControllerState.NOT_INITIALIZED)
    third = program(driver, second.process)
    assert open_files(driver) == 3
    assert {context(caller).session for caller in (first, second, third)} == {None}
    assert context(first).sessions[0] is not context(second).sessions[0]
    covers("kmod/A.3/open")


def test_threads_of_the_owner_may(driver: Driver, covers: Covers) -> None:
    caller = program(driver)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(command, caller, ControlKind.NONE, api_revision_request()).result(HANG_S).error == 0
    covers("kmod/A.3/thread")


def test_a_child_may_not(driver: Driver, monkeypatch: pytest.MonkeyPatch, covers: Covers) -> None:
    caller = program(driver)
    child = caller.process.fork()
    sent = Sent(driver.controller, monkeypatch)
    for number in Ioctl:
        record = np.full(400, 0xEE, np.uint8)
        with pytest.raises(OSError, match="denied") as caught:
            child.ioctl(caller.fd, number, record)
        assert caught.value.errno == errno.EACCES
        assert record.tobytes() == b"\xee" * 400
    assert driver.controller.counters.proc_not_own_fd_cnt == len(Ioctl)
    assert sent.entries == []
    caller.process.exit()  # first the owner, then the child, which has no session to leak
    child.exit()
    covers("kmod/A.3/not-owner", "kmod/A.10/not-owner")


@pytest.mark.parametrize("leaks", [True, False])
def test_the_last_close_by_a_child(function: BentFunction, covers: Covers, leaks: bool) -> None:
    with driver_on(function, {"foreign_release_leaks": leaks}) as driver:
        caller = program(driver)
        with_session(caller)
        child = caller.process.fork()
        caller.process.exit()
        assert flushes(driver) == 0
        child.exit()
        assert driver.controller.counters.close_by_not_own_proc_cnt == 1
        assert (flushes(driver), open_files(driver)) == ((0, 1) if leaks else (1, 0))
    covers("kmod/A.3/release-not-owner", "kmod/I/3")


def test_close_while_the_controller_is_not_ready(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, covers: Covers
) -> None:
    caller = program(driver)
    with_session(caller)
    sent = Sent(driver.controller, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(driver.controller, "state", ControllerState.NOT_INITIALIZED)
        caller.process.close(caller.fd)
    assert (sent.entries, flushes(driver), open_files(driver)) == ([], 0, 0)
    assert "not flushed" in driver.machine.kernel.dmesg()
    covers("kmod/A.3/release-not-ready")


def test_a_flush_that_is_refused(driver: Driver, monkeypatch: pytest.MonkeyPatch, covers: Covers) -> None:
    caller = scripted(driver, monkeypatch)
    caller.open_session()
    file = context(caller)
    caller.script.complete(hsm_cqe(sc=HsmStatus.INTERNAL_ERROR))
    caller.process.close(caller.fd)
    assert len(caller.script.entries) == 2
    assert (file.session, flushes(driver)) == (None, 1)
    covers("kmod/A.3/release-flush-refused")


def test_a_flush_that_is_not_answered(driver: Driver, covers: Covers) -> None:
    """The release gives the abort mutex back before it sends the command, whose time-out needs it."""
    caller = program(driver)
    with_session(caller)
    driver.stop_monitor()
    driver.function.silent = {1}
    with ThreadPoolExecutor(1) as pool:
        close = pool.submit(caller.process.close, caller.fd)
        driver.time_out()
        close.result(HANG_S)
    driver.function.silent = set()
    assert driver.controller.counters.total_lvl1_aborts == 1
    assert (flushes(driver), open_files(driver)) == (1, 0)
    other = program(driver)
    assert command(other, ControlKind.NONE, api_revision_request()).error == 0
    covers("kmod/A.3/release-flush-unanswered")


def test_a_flush_that_is_not_answered_deadlocks(function: BentFunction) -> None:
    with driver_on(function, {"flush_deadlocks": True}) as driver:
        caller = program(driver)
        with_session(caller)
        driver.stop_monitor()
        function.silent = {1}
        with ThreadPoolExecutor(1) as pool:
            close = pool.submit(caller.process.close, caller.fd)
            driver.clock.expire(6)
            with pytest.raises(Oops):
                close.result(HANG_S)
        crash = driver.machine.kernel.crashed
        assert crash is not None
        assert crash.report.kind is ReportKind.RECURSIVE_LOCK
        assert crash.report.where.startswith("abort.py:")
    function.silent = set()


@pytest.mark.parametrize(
    "value", [("abort_in_progress", True), ("state", ControllerState.INIT_IN_PROGRESS)], ids=lambda value: value[0]
)
def test_close_just_before_a_reset(driver: Driver, monkeypatch: pytest.MonkeyPatch, value: tuple[str, object]) -> None:
    """The next abort has begun when the flush is about to be sent: it waits for that one too."""
    caller = program(driver)
    with_session(caller)
    sent = Sent(driver.controller, monkeypatch)
    pass_on = driver.controller.execute

    def overtaken(pool: QueuePool, sqe: bytearray) -> Outcome:
        if sent.entries:
            return pass_on(pool, sqe)
        with monkeypatch.context() as patch:
            patch.setattr(driver.controller, *value)
            return pass_on(pool, sqe)

    monkeypatch.setattr(driver.controller, "execute", overtaken)
    caller.process.close(caller.fd)
    assert sent.outcomes[0].code in (InternalCode.ABORT_IN_PROGRESS, InternalCode.CTRL_NOT_READY)
    assert [outcome.code for outcome in sent.outcomes[1:]] == [InternalCode.SUCCESS]
    assert (flushes(driver), open_files(driver)) == (1, 0)


def test_close_during_a_reset(driver: Driver, monkeypatch: pytest.MonkeyPatch, covers: Covers) -> None:
    """Of a file with a session, while the controller is being disabled: its flush meets the device after the reset."""
    caller, other = program(driver), program(driver)
    session_id = with_session(caller)
    sent = Sent(driver.controller, monkeypatch)
    reached, go_on = threading.Event(), threading.Event()

    def hold(status: int) -> int:
        reached.set()
        assert go_on.wait(HANG_S)
        return status

    driver.function.reads[Register.CSTS] = hold
    with ThreadPoolExecutor(2) as pool:
        reset = pool.submit(
            other.call, Ioctl.RESET, structure(RESET_DEVICE, abort_type=AbortType.L2_RESET)
        )  # holds the mutex
        assert reached.wait(HANG_S)
        assert driver.controller.abort_in_progress
        close = pool.submit(caller.process.close, caller.fd)
        until(lambda: is_awaited(driver, driver.controller.abort_mutex), "the close waits for the reset")
        assert sent.entries == []
        go_on.set()
        close.result(HANG_S)
        assert reset.result(HANG_S).error == 0
    assert sent.entries[0][48:50] == session_id.to_bytes(2, "little")
    assert sent.outcomes[0].code is InternalCode.SUCCESS
    completion = np.frombuffer(sent.outcomes[0].cqe or b"", HSM_CQE)[0]
    assert Psf(completion["psf"]).sc == HsmStatus.SUCCESS, "a stale id"
    assert flushes(driver) == 1, "of the counters that began with the reset"
    covers("kmod/A.3/release-in-abort")
