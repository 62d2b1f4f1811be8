# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Level 2 of each type: what it gets past, and what it fails at (spec 01 §4, §8.3, §8.5)."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.registers import NSSR_MAGIC, Cc, Register
from ihsm_abi.uapi import DEVICE_INFO, AbortStatus, AbortType, InternalCode, Ioctl
from support.claims import Covers
from support.flow import ABORTED, LOST, NOT_READY, Flow, answers
from support.hsm_driver import ADMIN_TIMEOUT_S
from support.hsm_program import extended, reset
from support.waiting import HANG_S

REFUSAL = int(AdminStatus.INVALID_FIELD)
KINDS = pytest.mark.parametrize("kind", [AbortType.TIMEOUT, AbortType.L2_NSSR, AbortType.L2_RESET])
RESETS = pytest.mark.parametrize("kind", [AbortType.L2_NSSR, AbortType.L2_RESET])


def first_write(flow: Flow) -> tuple[int, int]:
    """Of the driver to a register, since the last `take`."""
    write = next(one for one in flow.driver.function.take() if one.op == "write" and one.bar == 0)
    return write.offset, write.value


class Recovery:
    """A level-2 abort of some type, by its cause."""

    def __init__(self, flow: Flow, kind: AbortType) -> None:
        self._flow = flow
        self._is_for_command = kind is AbortType.TIMEOUT
        if self._is_for_command:
            self._lost = flow.lose()
            flow.on_admin("wrong-status", AdminOpcode.DELETE_SQ, count=1, status=int(AdminStatus.INTERNAL_ERROR))
        self._kind = kind

    def begin(self) -> None:
        """Let it begin, on a thread."""
        self._flow.admin()
        if self._is_for_command:
            self._flow.time_out()
        else:
            self._reset = self._flow.start_reset(self._kind)

    def ends(self, error: int = 0) -> None:
        """See that whoever waits for it is told, as it ends with `error`."""
        if self._is_for_command:
            assert answers(self._lost) == [ABORTED], "whatever becomes of the controller"
        else:
            result = self._reset.result(HANG_S)
            assert (result.error, int(result.answer["abort_sts"])) == (error, 3 if error else 0)


@KINDS
def test_it_succeeds(flow: Flow, kind: AbortType) -> None:
    recovery = Recovery(flow, kind)
    flow.driver.function.take()
    with flow.anew():
        recovery.begin()
        recovery.ends()
        first = (Register.NSSR, NSSR_MAGIC) if kind is AbortType.L2_NSSR else (Register.CC, 0x67460000)
        assert first_write(flow) == first


@RESETS
def test_commands_that_are_held_end_with_it(flow: Flow, kind: AbortType, covers: Covers) -> None:
    held = [flow.lose("hold-command"), flow.lose()]
    aes = [flow.lose_aes("hold-command", 256), flow.lose_aes("drop-completion", 257)]
    with flow.anew():
        assert reset(flow.caller, kind).error == 0
        assert answers(*held) == [ABORTED] * 2
        assert [one.join() for one in aes] == [LOST] * 2
    covers("fault/hold-command")


# It gets past a device that does not stop, for nobody looks at that.


@pytest.mark.parametrize("kind", [AbortType.TIMEOUT, AbortType.L2_RESET])
def test_a_controller_that_is_not_disabled_at_first(flow: Flow, kind: AbortType) -> None:
    recovery = Recovery(flow, kind)
    hit = flow.faults.add("never-disabled", count=1)
    with flow.anew():
        recovery.begin()
        flow.time_out_ready(hit)
        recovery.ends()
    assert flow.driver.says("disable failed: ETIMEDOUT")


@pytest.mark.parametrize("kind", [AbortType.TIMEOUT, AbortType.L2_RESET])
def test_a_controller_that_is_never_disabled(flow: Flow, kind: AbortType, covers: Covers) -> None:
    """The enable tries it once more, and takes its failure seriously."""
    recovery = Recovery(flow, kind)
    hit = flow.faults.add("never-disabled")
    with flow.in_vain():
        recovery.begin()
        for number in (1, 2):
            flow.time_out_ready(hit, number)
        recovery.ends(errno.ETIMEDOUT)
    flow.is_bound_again()
    covers("fault/never-disabled")


@pytest.mark.parametrize("values", [{"count": 1}, {}], ids=["once", "always"])
def test_a_controller_that_does_not_follow_nssr(flow: Flow, values: dict[str, int], covers: Covers) -> None:
    """The enable disables it, which is another way."""
    hit = flow.faults.add("never-reset", **values)
    with flow.anew():
        done = flow.start_reset(AbortType.L2_NSSR)
        flow.time_out_ready(hit)
        assert done.result(HANG_S).error == 0
    assert flow.driver.says("subsystem reset failed: ETIMEDOUT")
    covers("fault/never-reset")


def test_a_controller_that_follows_neither_nssr_nor_disable(flow: Flow) -> None:
    stays = flow.faults.add("never-reset")
    stays_again = flow.faults.add("never-disabled")
    with flow.in_vain():
        done = flow.start_reset(AbortType.L2_NSSR)
        flow.time_out_ready(stays)
        flow.time_out_ready(stays_again)
        assert (done.result(HANG_S).error, done.result().answer["abort_sts"]) == (errno.ETIMEDOUT, 3)
    flow.is_bound_again()


# It comes up again, or not.


@KINDS
def test_a_controller_that_is_ready_after_a_while(flow: Flow, kind: AbortType) -> None:
    recovery = Recovery(flow, kind)
    hit = flow.faults.add("late-ready", reads=50, count=1)
    with flow.anew():
        recovery.begin()
        recovery.ends()
    assert hit.hits == 1


@KINDS
def test_a_controller_that_is_ready_too_late(flow: Flow, kind: AbortType) -> None:
    """It is left with CC.EN set; so it may become ready when nobody waits any more."""
    recovery = Recovery(flow, kind)
    hit = flow.faults.add("late-ready", reads=1_000_000_000, count=1)
    with flow.in_vain():
        recovery.begin()
        flow.time_out_ready(hit)
        recovery.ends(errno.ETIMEDOUT)
        assert Cc(flow.driver.function.inner.read_bar(0, Register.CC, 4)).en == 1
    flow.is_bound_again()


@KINDS
def test_a_controller_that_is_never_ready(flow: Flow, kind: AbortType) -> None:
    recovery = Recovery(flow, kind)
    hit = flow.faults.add("never-ready")
    with flow.in_vain():
        recovery.begin()
        flow.time_out_ready(hit)
        recovery.ends(errno.ETIMEDOUT)
    flow.is_bound_again()


@KINDS
def test_a_controller_that_fails_again_at_once(flow: Flow, kind: AbortType) -> None:
    recovery = Recovery(flow, kind)
    flow.faults.add("set-cfs")
    with flow.in_vain():
        recovery.begin()
        recovery.ends(errno.EFAULT)
    flow.is_bound_again()


@KINDS
@pytest.mark.parametrize(("hsm", "error"), [(0, errno.ENOMEM), (2, errno.EFAULT)])
def test_other_hsm_queues_than_there_are(flow: Flow, kind: AbortType, hsm: int, error: int) -> None:
    """None are granted, or more than can be created."""
    recovery = Recovery(flow, kind)
    flow.faults.add("grant-queues", hsm=hsm, count=1)
    with flow.in_vain():
        recovery.begin()
        recovery.ends(error)
    flow.is_bound_again()


@KINDS
def test_no_aes_queues_are_granted_any_more(flow: Flow, kind: AbortType) -> None:
    recovery = Recovery(flow, kind)
    flow.faults.add("grant-queues", aes=0, count=1)
    recovery.begin()
    recovery.ends()
    assert flow.driver.controller.aes_pool.count == 0
    flow.works()


@KINDS
@pytest.mark.parametrize(
    "opcode", [AdminOpcode.IDENTIFY, AdminOpcode.SET_FEATURES, AdminOpcode.CREATE_CQ, AdminOpcode.CREATE_SQ]
)
def test_a_command_is_refused(flow: Flow, kind: AbortType, opcode: AdminOpcode) -> None:
    recovery = Recovery(flow, kind)
    hit = flow.on_admin("wrong-status", opcode, status=REFUSAL, count=1)
    with flow.in_vain():
        recovery.begin()
        recovery.ends(errno.EFAULT)
        assert hit.hits == 1
    flow.is_bound_again()


@KINDS
@pytest.mark.parametrize("action", ["drop-completion", "hold-command"])
@pytest.mark.parametrize("opcode", [AdminOpcode.IDENTIFY, AdminOpcode.CREATE_CQ, AdminOpcode.CREATE_SQ])
def test_a_command_is_not_answered(flow: Flow, kind: AbortType, opcode: AdminOpcode, action: str) -> None:
    recovery = Recovery(flow, kind)
    hit = flow.on_admin(action, opcode, count=1)
    with flow.in_vain():
        recovery.begin()
        flow.time_out_admin(hit)
        if (opcode, action) == (AdminOpcode.CREATE_SQ, "hold-command"):
            flow.driver.clock.expire(ADMIN_TIMEOUT_S)  # DELETE_CQ, which the device has behind the held command
        recovery.ends(errno.EAGAIN)
    flow.is_bound_again()


@RESETS
def test_capabilities_that_are_refused_are_none(flow: Flow, kind: AbortType) -> None:
    flow.on_admin("wrong-status", AdminOpcode.GET_FEATURES, status=REFUSAL, count=1)
    with flow.anew():
        assert reset(flow.caller, kind).error == 0
        assert not flow.driver.controller.gcm_workaround


@RESETS
@pytest.mark.parametrize("reads", [0, 1, 3, 4, 5], ids="at read {}".format)
def test_the_device_goes_meanwhile(flow: Flow, kind: AbortType, reads: int) -> None:
    flow.faults.add("all-ones", nth=1 + reads)
    with flow.in_vain():
        done = reset(flow.caller, kind)
        assert (done.error, done.answer["abort_sts"]) == (errno.ENODEV, 3)
    flow.is_bound_again()


def test_the_device_goes_when_it_is_enabled(flow: Flow) -> None:
    """From the tenth read on, that of VS: the doorbell of the first command is lost."""
    flow.faults.add("all-ones", nth=11)
    with flow.in_vain():
        done = flow.start_reset(AbortType.L2_RESET)
        flow.driver.clock.expire(ADMIN_TIMEOUT_S)
        assert (done.result(HANG_S).error, done.result().answer["abort_sts"]) == (errno.EAGAIN, 3)
    assert flow.driver.says("disable failed: ENODEV")
    flow.is_bound_again()


# What others see meanwhile.


def seen_by_others(flow: Flow) -> tuple[tuple[int, int], int, int]:
    """Extended status and errno of a command, errno of the device information, status of a reset."""
    info = np.zeros(1, DEVICE_INFO)
    refused = reset(flow.caller)
    assert refused.error == errno.EINVAL
    return extended(flow.ask()), flow.caller.call(Ioctl.GET_DEV_INFO, info).error, int(refused.answer["abort_sts"])


def test_while_it_is_disabled_an_abort_is_in_progress(flow: Flow) -> None:
    hit = flow.faults.add("never-disabled", count=1)
    done = flow.start_reset(AbortType.L2_RESET)
    hit.wait()
    assert seen_by_others(flow) == ((0x04000001, errno.EAGAIN), errno.EAGAIN, AbortStatus.ALREADY_IN_PROGRESS)
    assert flow.driver.aes().code is InternalCode.ABORT_IN_PROGRESS
    hit.clear()
    assert done.result(HANG_S).error == 0
    flow.works()


def test_while_it_comes_up_it_is_not_ready(flow: Flow) -> None:
    hit = flow.on_admin("hold-command", AdminOpcode.IDENTIFY, count=1)
    done = flow.start_reset(AbortType.L2_RESET)
    hit.wait()
    assert seen_by_others(flow) == (NOT_READY, errno.ENOTTY, AbortStatus.INVALID_DEVICE_STATE)
    hit.clear()
    assert done.result(HANG_S).error == 0
    flow.works()


def test_it_is_ready_before_it_knows_the_capabilities(flow: Flow) -> None:
    hit = flow.on_admin("hold-command", AdminOpcode.GET_FEATURES, count=1)
    done = flow.start_reset(AbortType.L2_RESET)
    hit.wait()
    flow.works()
    assert not done.done()
    hit.clear()
    assert done.result(HANG_S).error == 0
    assert flow.driver.controller.gcm_workaround
