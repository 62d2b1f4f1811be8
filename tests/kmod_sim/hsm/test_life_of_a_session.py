# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""HSM commands of a program, through the node to the device and back (spec 02 A.6, B)."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ihsm_abi.admin import AdminOpcode
from ihsm_abi.ddi import DdiStatus
from ihsm_abi.hsm_queue import ControlKind, HsmStatus, SessionControl
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register
from ihsm_abi.uapi import (
    GENERIC_IOCTL,
    NO_SESSION_ID,
    RESET_DEVICE,
    AbortExtendedStatus,
    AbortType,
    CpStatus,
    InternalCode,
    Ioctl,
)
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.kernel.report import ReportKind
from support.bent_function import Access, BentFunction
from support.hsm_driver import Driver, driver_on
from support.hsm_program import (
    CREDENTIAL,
    api_revision_request,
    command,
    context,
    is_awaited,
    partition,
    program,
    provisioned,
    scripted,
)
from support.ioctls import KEPT, Caller, hsm_cqe, kept, structure
from support.user_pages import GONE, PAGE, USABLE, UserPages
from support.waiting import HANG_S, until

Covers = Callable[..., None]
OPENED = SessionControl.of(kind=ControlKind.OPEN, id_valid=1, short_app_id_valid=1)


@pytest.fixture
def caller(driver: Driver) -> Caller:
    """A program with the node of a device that is as after power-on."""
    return program(driver)


def test_a_command_without_session(caller: Caller) -> None:
    answer = command(caller, ControlKind.NONE, api_revision_request(), ctxt=77)
    assert (answer.error, answer.header.status) == (0, DdiStatus.Success)
    assert answer.structure["out_ctxt"] == 77
    assert answer.structure["extended_status"] == kept("extended_status", GENERIC_IOCTL)


def test_the_life_of_a_session(caller: Caller, covers: Covers) -> None:
    client = provisioned(caller)
    slot = context(caller).sessions[0]
    session = client.open_session(CREDENTIAL)
    assert (slot.id, slot.valid) == (session.session_id, True)
    assert (slot.short_app_id, slot.short_app_id_is_valid) == (session.short_app_id, True)
    session.change_pin(b"another number..")
    assert slot.valid
    session.close()
    assert (slot.id, slot.valid) == (NO_SESSION_ID, False)
    covers("kmod/A.4/session")


def test_one_session_a_file_and_each_file_its_own(driver: Driver, caller: Caller) -> None:
    first = provisioned(caller).open_session(CREDENTIAL)
    refused = command(caller, ControlKind.OPEN, api_revision_request())
    assert refused.error == errno.EINVAL
    assert refused.structure["extended_status"] == CpStatus.OPEN_SESSION_SESSION_LIMIT_REACHED
    second = partition(program(driver, caller.process)).open_session(CREDENTIAL)
    assert second.session_id != first.session_id
    foreign = command(caller, ControlKind.IN_SESSION, b"", second.session_id)
    assert foreign.structure["extended_status"] == CpStatus.SESSION_ID_MISMATCH


@pytest.mark.parametrize("size", [PAGE, PAGE + 1, 2 * PAGE])
def test_requests_that_the_driver_takes_and_the_device_refuses(caller: Caller, covers: Covers, size: int) -> None:
    answer = command(caller, ControlKind.NONE, bytes(size))
    expected = HsmStatus.INTERNAL_ERROR if size == PAGE else HsmStatus.INVALID_SRC_LENGTH
    assert (answer.error, answer.structure["status"], answer.structure["byte_count"]) == (0, expected, 0)
    covers("kmod/I/7")


def test_buffers_at_any_address(caller: Caller) -> None:
    """Request and answer both cross a page, and only what the device has sent is written."""
    pages, message = UserPages(USABLE, USABLE, USABLE), api_revision_request()
    expected = command(caller, ControlKind.NONE, message).message
    source, destination = pages.put(PAGE - 3, message), pages.put(2 * PAGE - 5, bytes([KEPT]) * 200)
    answer = command(caller, ControlKind.NONE, message, src_buf=source, dst_buf=destination, dst_length=200)
    assert answer.error == 0
    assert pages.get(2 * PAGE - 5, 200) == expected.ljust(200, bytes([KEPT]))


def test_an_answer_is_cut_to_what_the_caller_has_room_for(caller: Caller) -> None:
    message = api_revision_request()
    expected = command(caller, ControlKind.NONE, message).message
    answer = command(caller, ControlKind.NONE, message, dst_length=5)
    assert (answer.error, answer.message) == (0, expected[:5])


def test_an_old_session_after_a_reset(caller: Caller, covers: Covers) -> None:
    """The driver lets it through, the device refuses it."""
    session_id = provisioned(caller).open_session(CREDENTIAL).session_id
    assert caller.call(Ioctl.RESET, structure(RESET_DEVICE, abort_type=AbortType.L2_RESET)).error == 0
    assert context(caller).session is not None
    answer = command(caller, ControlKind.IN_SESSION, api_revision_request(), session_id)
    assert (answer.error, answer.structure["status"]) == (0, 0)
    assert answer.header.status != DdiStatus.Success
    covers("kmod/A.3/slot-after-reset", "kmod/I/6")


def test_a_reset_that_ends_sessions(function: BentFunction) -> None:
    with driver_on(function, {"session_survives_reset": False}) as driver:
        caller = program(driver)
        provisioned(caller).open_session(CREDENTIAL)
        assert caller.call(Ioctl.RESET, structure(RESET_DEVICE, abort_type=AbortType.L2_RESET)).error == 0
        assert context(caller).session is None
        again = command(caller, ControlKind.IN_SESSION, b"", 0)
        assert again.structure["extended_status"] == CpStatus.NO_EXISTING_SESSION


def test_two_threads_that_open_find_the_same_slot_free(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, covers: Covers
) -> None:
    caller = scripted(driver, monkeypatch)
    both, ids = threading.Barrier(2), iter((5, 6))

    def answer(_: bytes) -> Outcome:
        both.wait(HANG_S)  # neither is answered before both are under way
        return Outcome(InternalCode.SUCCESS, hsm_cqe(control=OPENED, session_id=next(ids)), 0)

    caller.script.answer = answer
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(command, caller, ControlKind.OPEN, b"") for _ in range(2)]
        assert [call.result(HANG_S).error for call in calls] == [0, 0]
    slot = context(caller).session
    assert slot is not None
    assert slot.id in (5, 6)
    caller.script.complete(hsm_cqe())
    caller.process.close(caller.fd)
    assert len(caller.script.entries) == 3, "one flush: the other session is lost"
    covers("kmod/A.3/two-opens")


def test_two_threads_that_open_one_after_the_other(function: BentFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    with driver_on(function, {"slot_check_unlocked": False}) as driver:
        caller = scripted(driver, monkeypatch)
        go_on = threading.Event()

        def answer(_: bytes) -> Outcome:
            assert go_on.wait(HANG_S)
            return Outcome(InternalCode.SUCCESS, hsm_cqe(control=OPENED, session_id=5), 0)

        caller.script.answer = answer
        lock = context(caller).lock
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(command, caller, ControlKind.OPEN, b"") for _ in range(2)]
            until(lambda: is_awaited(driver, lock), "the second waits")
            go_on.set()
            answers = [call.result(HANG_S) for call in calls]
        limit = CpStatus.OPEN_SESSION_SESSION_LIMIT_REACHED
        refused = [answer.structure["extended_status"] for answer in answers if answer.error]
        assert refused == [limit]
        assert len(caller.script.entries) == 1


def test_a_short_header_without_the_quirk(function: BentFunction) -> None:
    with driver_on(function, {"short_header_wipes": False}) as driver:
        record = np.full(GENERIC_IOCTL.itemsize, KEPT, np.uint8)
        record[:4] = (GENERIC_IOCTL.itemsize - 1, 0, 0, 0)
        before = record.tobytes()
        assert program(driver).call(Ioctl.GENERIC_SESSION, record).error == errno.EINVAL
        assert record.tobytes() == before


@pytest.mark.parametrize("twice", [True, False])
def test_pages_of_a_request_that_cannot_be_read(function: BentFunction, twice: bool) -> None:
    with driver_on(function, {"source_pages_freed_twice": twice}) as driver:
        gone = UserPages(GONE, GONE)
        answer = command(
            program(driver), ControlKind.NONE, b"", src_buf=gone.address, src_length=2 * PAGE, dst_length=2 * PAGE
        )
        assert answer.structure["extended_status"] == CpStatus.INVALID_INPUT_BUFFER
        doubles = [report for report in driver.reports if report.kind is ReportKind.DMA_DOUBLE_FREE]
        assert len(doubles) == (2 if twice else 0)
        assert {report.where.partition(":")[0] for report in doubles} <= {"bounce.py"}
        driver.unbind()
        leaks = [report for report in driver.reports if report.kind is not ReportKind.DMA_DOUBLE_FREE]
        assert bool(leaks) == twice, "the pages of the answer"


def test_pages_of_a_command_are_given_back_after_the_level_2_that_it_caused(driver: Driver) -> None:
    """The reset makes another page pool while the caller, who runs it, has pages of the one before."""

    def agree(access: Access) -> None:
        if (access.bar, access.offset) == (Bar.REGISTERS, Register.CC):
            driver.function.refused.clear()
            driver.function.silent.clear()

    caller = program(driver)
    driver.stop_monitor()
    driver.function.silent.add(1)
    driver.function.refused.add(AdminOpcode.DELETE_SQ)
    driver.function.after_write = agree
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(command, caller, ControlKind.NONE, api_revision_request())
        driver.time_out()
        answer = call.result(HANG_S)
    assert answer.error == errno.EAGAIN
    assert answer.structure["extended_status"] == AbortExtendedStatus.CMD_ABORTED
    assert driver.controller.counters.total_lvl2_aborts == 0, "the counters of after"
    assert command(caller, ControlKind.NONE, api_revision_request()).error == 0
    driver.unbind()
    assert driver.reports == []
