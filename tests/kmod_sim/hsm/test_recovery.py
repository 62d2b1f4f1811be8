# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What programs notice of time-outs and resets (spec 02 A.8, A.10)."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from ihsm_abi.aes_queue import AesStatus
from ihsm_abi.ddi import DdiStatus, GetUnwrappingKeyReq, encode_request
from ihsm_abi.doorbells import sq_tail_offset
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.pci import Bar
from ihsm_abi.registers import NSSR_MAGIC, Cc, Csts, Register
from ihsm_abi.resources import aes_queue_ids
from ihsm_abi.uapi import DEVICE_INFO, GCM_IOCTL, GENERIC_IOCTL, AbortType, InternalCode, Ioctl
from support.bent_function import Access, BentFunction
from support.hsm_driver import COMMAND_TIMEOUT_S, GRACE_S, Driver, driver_on
from support.hsm_program import (
    CREDENTIAL,
    api_revision_request,
    ask,
    command,
    encrypt,
    extended,
    program,
    provisioned,
    reset,
)
from support.ioctls import Caller, kept
from support.waiting import HANG_S, until

Covers = Callable[..., None]
ABORTED = (0x04000002, errno.EAGAIN)
HSM_QUEUE = 1
RESETS = [AbortType.L2_NSSR, AbortType.L2_RESET]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads of programs."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def caller(driver: Driver) -> Caller:
    """A program with the node open; no timer runs but those of its commands."""
    driver.stop_monitor()
    return program(driver)


def entropy(caller: Caller) -> bytes:
    """Of the device information."""
    record = np.zeros(1, DEVICE_INFO)
    record["argsz"] = DEVICE_INFO.itemsize
    result = caller.call(Ioctl.GET_DEV_INFO, record)
    assert result.error == 0
    return bytes(result.answer["device_entropy"])


def test_hsm_commands_that_are_not_answered(
    driver: Driver, caller: Caller, pool: ThreadPoolExecutor, covers: Covers
) -> None:
    """All that are on the queue end with the one whose time is up; the queue works on."""
    driver.function.silent.add(HSM_QUEUE)
    first = pool.submit(ask, caller)
    driver.clock.await_timer(COMMAND_TIMEOUT_S)
    driver.clock.advance(COMMAND_TIMEOUT_S / 2)
    second = pool.submit(ask, caller)
    driver.await_unheard(HSM_QUEUE, count=2)
    driver.clock.await_timer(COMMAND_TIMEOUT_S)
    driver.function.silent.clear()
    driver.clock.expire(COMMAND_TIMEOUT_S / 2)
    driver.clock.expire(GRACE_S)
    assert extended(first.result(HANG_S)) == extended(second.result(HANG_S)) == ABORTED
    assert first.result().structure["status"] == kept("status", GENERIC_IOCTL)
    assert ask(caller).header.status == DdiStatus.Success
    assert driver.machine.sysfs(f"cp_sq{HSM_QUEUE}/total_ios_timedout") == "1\n"
    covers("kmod/A.8/timeout", "kmod/A.8/level-1", "kmod/A.8/hsm-1", "kmod/A.6/19")


def test_a_command_that_completes_when_the_abort_has_begun(
    driver: Driver, caller: Caller, pool: ThreadPoolExecutor, covers: Covers
) -> None:
    driver.function.silent.add(HSM_QUEUE)
    answer = pool.submit(ask, caller)
    driver.clock.expire(COMMAND_TIMEOUT_S)
    until(lambda: driver.controller.abort_in_progress, "the command is given its grace")
    assert extended(ask(caller)) == (0x04000001, errno.EAGAIN)
    driver.function.silent.clear()
    driver.function.inner.write_bar(Bar.DOORBELLS, sq_tail_offset(HSM_QUEUE), 4, 1)
    assert extended(answer.result(HANG_S)) == (kept("extended_status", GENERIC_IOCTL), errno.EAGAIN)
    assert ask(caller).error == 0
    covers("kmod/A.8/timeout", "kmod/A.8/hsm-0", "kmod/A.6/4")


def test_an_aes_command_that_is_not_answered(
    driver: Driver, caller: Caller, pool: ThreadPoolExecutor, covers: Covers
) -> None:
    session = provisioned(caller).open_session(CREDENTIAL)
    driver.function.silent |= set(aes_queue_ids(1))
    lost = pool.submit(encrypt, caller, session.session_id)
    driver.await_unheard(*aes_queue_ids(1))
    driver.function.silent.clear()
    driver.time_out()
    result = lost.result(HANG_S)
    assert (result.error, result.value, *result.extended) == (0, 0, InternalCode.ABORTED, 0)
    assert (result.answer["byte_count"], result.answer["result"]) == (0, kept("result", GCM_IOCTL))
    assert encrypt(caller, session.session_id).answer["result"] == AesStatus.INVALID_FIELD_GCM
    covers("kmod/A.8/timeout", "kmod/A.8/aes-1", "kmod/A.7/late-submit", "kmod/I/1")


def test_without_a_free_tag_callers_wait(function: BentFunction, pool: ThreadPoolExecutor, covers: Covers) -> None:
    """A ring of two slots has one tag."""
    with driver_on(function, num_hsm_slots=2) as driver:
        caller, (queue,) = program(driver), driver.controller.hsm_pool.queues
        function.silent.add(HSM_QUEUE)
        first = pool.submit(ask, caller)
        driver.await_unheard(HSM_QUEUE)
        second = pool.submit(ask, caller)
        until(lambda: driver.controller.counters.total_submissions == 2, "the second wants a tag")
        assert len(queue.tags.outstanding()) == 1
        function.silent.clear()
        function.inner.write_bar(Bar.DOORBELLS, sq_tail_offset(HSM_QUEUE), 4, 1)
        assert [extended(lost.result(HANG_S))[1] for lost in (first, second)] == [0, 0]
    covers("kmod/A.8/no-tag")


@pytest.mark.parametrize("kind", RESETS)
def test_reset(driver: Driver, caller: Caller, covers: Covers, kind: AbortType) -> None:
    ask(caller)
    before = entropy(caller)
    assert driver.machine.sysfs("global/total_submissions") == "1"
    driver.function.take()
    result = reset(caller, kind)
    assert (result.error, result.value, result.answer["abort_sts"]) == (0, 0, 0)
    first = next(access for access in driver.function.take() if access.op == "write")
    if kind is AbortType.L2_NSSR:
        assert (first.bar, first.offset, first.value) == (Bar.REGISTERS, Register.NSSR, NSSR_MAGIC)
    else:
        assert (first.bar, first.offset, Cc(first.value).en) == (Bar.REGISTERS, Register.CC, 0)
    assert driver.machine.sysfs("global/total_submissions") == "0"
    assert entropy(caller) != before
    assert ask(caller).error == 0
    covers("kmod/A.10/6-nssr" if kind is AbortType.L2_NSSR else "kmod/A.10/6-reset", "kmod/A.4/reset", "kmod/I/15")


@pytest.mark.parametrize("kind", RESETS)
def test_a_session_looks_valid_after_a_reset(driver: Driver, caller: Caller, covers: Covers, kind: AbortType) -> None:
    """The driver lets its commands pass and another open not; it is the device that knows better."""
    session = provisioned(caller).open_session(CREDENTIAL)
    assert reset(caller, kind).error == 0
    message = encode_request(GetUnwrappingKeyReq(), session_id=session.session_id)
    answer = command(caller, ControlKind.IN_SESSION, message, session.session_id)
    assert (answer.error, answer.header.status) == (0, DdiStatus.SessionNeedsRenegotiation)
    assert extended(command(caller, ControlKind.OPEN, api_revision_request())) == (11, errno.EINVAL)
    covers("kmod/A.10/after", "kmod/A.3/slot-after-reset", "kmod/I/6")


def test_subsystem_reset_that_the_device_does_not_follow(driver: Driver, caller: Caller, covers: Covers) -> None:
    """RDY stays for longer than its time-out: noted, and the device is brought up all the same."""

    def stuck(value: int) -> int:
        if driver.says("subsystem reset failed"):
            return value
        driver.clock.advance(1)
        return Csts(value).replace(rdy=1)

    driver.function.reads[Register.CSTS] = stuck
    result = reset(caller, AbortType.L2_NSSR)
    assert (result.error, result.value, result.answer["abort_sts"]) == (0, 0, 0)
    assert driver.says("subsystem reset failed")
    assert ask(caller).error == 0
    covers("kmod/A.10/6-nssr-fails")


@pytest.mark.parametrize("kind", RESETS)
def test_commands_under_way_at_a_reset(
    driver: Driver, caller: Caller, pool: ThreadPoolExecutor, covers: Covers, kind: AbortType
) -> None:
    session = provisioned(caller).open_session(CREDENTIAL)
    driver.function.silent |= {HSM_QUEUE, *aes_queue_ids(1)}
    hsm = pool.submit(ask, caller)
    aes = pool.submit(encrypt, caller, session.session_id)
    driver.await_unheard(HSM_QUEUE)
    driver.await_unheard(*aes_queue_ids(1))
    assert reset(program(driver, caller.process), kind).error == 0
    driver.function.silent.clear()
    assert extended(hsm.result(HANG_S)) == ABORTED
    assert (aes.result(HANG_S).error, *aes.result().extended) == (0, InternalCode.ABORTED, 0)
    covers("kmod/A.10/outstanding", "kmod/A.8/hsm-1", "kmod/A.8/aes-1")


Calls = tuple[tuple[int, int], tuple[int, int], int, int]


def calls(caller: Caller, session_id: int) -> Calls:
    """Another program's calls: what session ioctl, AES ioctl, device information and reset answer."""
    info = np.zeros(1, DEVICE_INFO)
    refused = reset(caller)
    assert refused.error == errno.EINVAL
    return (
        extended(ask(caller)),
        encrypt(caller, session_id).extended,
        caller.call(Ioctl.GET_DEV_INFO, info).error,
        int(refused.answer["abort_sts"]),
    )


def test_others_during_a_reset(driver: Driver, caller: Caller, pool: ThreadPoolExecutor, covers: Covers) -> None:
    session = provisioned(caller).open_session(CREDENTIAL)
    seen: dict[int, Future[Calls]] = {}

    def look(access: Access) -> None:
        """At the first write of CC, and when initialisation begins."""
        if access.bar == Bar.REGISTERS and access.offset in (Register.CC, Register.ASQ) and access.offset not in seen:
            seen[access.offset] = pool.submit(calls, caller, session.session_id)
            seen[access.offset].exception(HANG_S)

    driver.function.after_write = look
    assert reset(program(driver, caller.process)).error == 0
    assert seen[Register.CC].result() == ((0x04000001, 11), (0x04000001, 11), errno.EAGAIN, 1)
    assert seen[Register.ASQ].result() == ((10, 11), (106, 11), errno.ENOTTY, 2)
    covers("kmod/A.10/others-in-abort", "kmod/A.10/others-in-init")
