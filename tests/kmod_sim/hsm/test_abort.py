# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recovery: level 1, level 2, and what both do to callers (spec 01 §8.1-§8.3, §8.6)."""

from __future__ import annotations

import errno

import pytest

from ihsm_abi.admin import AdminOpcode
from ihsm_abi.doorbells import cq_head_offset, sq_tail_offset
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Cc, Csts, Register
from ihsm_abi.uapi import AbortResult, AbortType, ControllerState, InternalCode
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.kthread import KThread
from ihsm_kmod.kernel.report import ReportKind
from support.bent_function import Access, BentFunction
from support.hsm_driver import ADMIN_TIMEOUT_S, COMMAND_TIMEOUT_S, Driver, commands_of, driver_on
from support.hsm_program import is_awaited
from support.waiting import together, until

TIMEOUT_S = 11
"""Of an enable or disable, in whole seconds: (TO + 1) x 500 ms with TO 20."""
LEVEL_1 = [(AdminOpcode.DELETE_SQ, 1), (AdminOpcode.CREATE_SQ, 15 << 16 | 1)]


def start_unanswered(driver: Driver) -> KThread:
    """A command that the device never sees."""
    before = driver.function.unheard[1]
    driver.function.silent.add(1)
    command = driver.start_hsm()
    driver.await_unheard(1, count=before + 1)
    return command


def resume(driver: Driver) -> None:
    """The device sees the doorbells of its HSM queue again."""
    driver.function.silent.clear()


def test_level_1_begins_the_sq_anew_and_goes_on_in_the_cq(driver: Driver) -> None:
    for _ in range(3):
        driver.hsm()
    commands_of(driver)
    command = start_unanswered(driver)
    resume(driver)
    driver.time_out()
    assert command.join() == Outcome(InternalCode.ABORTED, None, errno.EAGAIN)
    assert commands_of(driver) == LEVEL_1
    driver.function.take()
    assert driver.hsm().error == 0
    doorbells = [(one.offset, one.value) for one in driver.function.take() if one.bar == Bar.DOORBELLS]
    assert doorbells == [(sq_tail_offset(1), 1), (cq_head_offset(1), 4)]
    shown = {name: driver.machine.sysfs(f"cp_sq1/{name}") for name in ("num_level1_aborts", "total_ios_timedout")}
    assert set(shown.values()) == {"1\n"}
    assert driver.machine.sysfs("cp_sq1/num_cmds_pending_in_hw") == "1\n", "an aborted command stays in it"
    assert driver.machine.sysfs("global/total_lvl1_aborts") == "1"
    assert driver.machine.sysfs("global/total_cmds_aborted") == "1"
    assert driver.machine.sysfs("admin/num_q_delete_cmds") == "1"


@pytest.mark.parametrize(("quirk", "error"), [(True, errno.EAGAIN), (False, 0)])
def test_a_command_that_comes_late_is_no_abort(function: BentFunction, quirk: bool, error: int) -> None:
    with driver_on(function, {"late_answer_is_no_answer": quirk}) as driver:
        driver.stop_monitor()
        commands_of(driver)
        command = start_unanswered(driver)
        resume(driver)
        driver.clock.expire(COMMAND_TIMEOUT_S)
        until(lambda: driver.controller.abort_in_progress, "the command is given its grace")
        assert driver.hsm().code is InternalCode.ABORT_IN_PROGRESS
        driver.function.inner.write_bar(Bar.DOORBELLS, sq_tail_offset(1), 4, 1)
        outcome = command.join()
        assert isinstance(outcome, Outcome)
        assert (outcome.code, outcome.error) == (InternalCode.SUCCESS, error)
        assert commands_of(driver) == []
        assert driver.hsm().error == 0


def test_one_abort_serves_all_that_timed_out(driver: Driver) -> None:
    commands_of(driver)
    commands = [start_unanswered(driver) for _ in range(3)]
    resume(driver)
    driver.time_out()
    assert [command.join() for command in commands] == [Outcome(InternalCode.ABORTED, None, errno.EAGAIN)] * 3
    assert commands_of(driver) == LEVEL_1


def test_one_abort_at_a_time(driver: Driver) -> None:
    """Another begins in the middle of one, and waits for its end."""
    disables: list[int] = []
    others: list[KThread] = []

    def look(access: Access) -> None:
        if (access.bar, access.offset) != (Bar.REGISTERS, Register.CC) or Cc(access.value).en:
            return
        disables.append(access.value)
        if not others:
            others.append(driver.machine.kernel.thread(lambda: controller.abort(AbortType.L2_RESET), "other"))
            until(lambda: is_awaited(driver, controller.abort_mutex) or len(disables) > 1, "the other one has begun")
            assert len(disables) == 1, "both are at work"

    controller = driver.controller
    driver.function.after_write = look
    assert driver.run(controller.abort, AbortType.L2_RESET) == 0
    assert others[0].join() == 0
    assert len(disables) == 2


def test_level_1_is_never_escalated_by_count(driver: Driver) -> None:
    commands_of(driver)
    for _ in range(8):
        command = start_unanswered(driver)
        resume(driver)
        driver.time_out()
        assert command.join() == Outcome(InternalCode.ABORTED, None, errno.EAGAIN)
    assert commands_of(driver) == LEVEL_1 * 8


def test_other_queues_work_through_a_level_1(driver: Driver) -> None:
    driver.function.silent.add(256)
    command = driver.start_aes()
    driver.await_unheard(256)
    assert driver.aes().error == 0
    assert driver.hsm().error == 0
    driver.time_out()
    assert command.join() == Outcome(InternalCode.ABORTED, None, errno.EAGAIN)
    driver.function.silent.clear()
    assert driver.aes().error == driver.aes().error == 0


# Level 1 fails, level 2 helps.


def recovers(driver: Driver, command: KThread, *, unanswered: AdminOpcode | None = None) -> None:
    """The timed-out command ends, and the controller is a new one."""
    entropy = driver.controller.entropy
    resume(driver)
    driver.time_out()
    if unanswered is not None:
        # Not the time-out of an earlier command, which is about to be answered.
        until(lambda: driver.function.admin[-1]["opc"] == unanswered, "the command is with the device")
        driver.clock.expire(ADMIN_TIMEOUT_S)
    outcome = command.join()
    assert isinstance(outcome, Outcome)
    assert (outcome.code, outcome.error) == (InternalCode.ABORTED, errno.EAGAIN)
    assert driver.controller.state is ControllerState.READY
    assert driver.controller.entropy != entropy
    assert driver.machine.sysfs("global/total_lvl2_aborts") == "0", "all counters begin anew"
    assert driver.hsm().error == driver.aes().error == 0


def test_level_1_fails_by_a_fatal_status(driver: Driver) -> None:
    def heal(access: Access) -> None:
        if (access.bar, access.offset) == (Bar.REGISTERS, Register.CC):
            driver.function.reads.clear()

    driver.stop_monitor()
    commands_of(driver)
    command = start_unanswered(driver)
    driver.function.reads[Register.CSTS] = lambda value: Csts(value).replace(cfs=1)
    driver.function.after_write = heal
    recovers(driver, command)
    assert commands_of(driver)[0][0] is AdminOpcode.IDENTIFY


@pytest.mark.parametrize("opcode", [AdminOpcode.DELETE_SQ, AdminOpcode.CREATE_SQ])
def test_level_1_fails_by_a_refusal(driver: Driver, opcode: AdminOpcode) -> None:
    def agree(access: Access) -> None:
        if (access.bar, access.offset) == (Bar.REGISTERS, Register.CC):
            driver.function.refused.clear()

    command = start_unanswered(driver)
    driver.function.refused.add(opcode)
    driver.function.after_write = agree
    recovers(driver, command)


@pytest.mark.parametrize("opcode", [AdminOpcode.DELETE_SQ, AdminOpcode.CREATE_SQ])
def test_level_1_fails_without_an_answer(driver: Driver, opcode: AdminOpcode) -> None:
    def answer(access: Access) -> None:
        if (access.bar, access.offset) == (Bar.REGISTERS, Register.CC):
            driver.function.unanswered.clear()

    driver.stop_monitor()
    command = start_unanswered(driver)
    driver.function.unanswered.add(opcode)
    driver.function.after_write = answer
    recovers(driver, command, unanswered=opcode)


# Level 2 at once.


@pytest.mark.parametrize("kind", [AbortType.L2_RESET, AbortType.L2_NSSR])
def test_a_controller_that_does_not_stop_is_enabled_again_all_the_same(driver: Driver, kind: AbortType) -> None:
    """The wait for RDY 0 fails, which nobody looks at; the next enable finds the controller stopped."""

    waited = []

    def keep_running(value: int) -> int:
        waited.append(value)
        driver.clock.advance(1)
        return Csts(value).replace(rdy=1) if len(waited) <= TIMEOUT_S else value

    driver.stop_monitor()
    driver.function.reads[Register.CSTS] = keep_running
    assert driver.run(driver.controller.abort, kind) == 0
    assert driver.says("failed: ETIMEDOUT")
    assert driver.hsm().error == 0


def test_a_device_that_never_returns(driver: Driver) -> None:
    def never(value: int) -> int:
        driver.clock.advance(1)
        return Csts(value).replace(rdy=1)

    driver.stop_monitor()
    driver.function.reads[Register.CSTS] = never
    with pytest.raises(Errno) as caught:
        driver.run(driver.controller.abort, AbortType.L2_RESET)
    assert caught.value.errno == errno.ETIMEDOUT
    assert driver.controller.state is ControllerState.NOT_INITIALIZED


def test_resets_under_load(driver: Driver) -> None:
    """Whatever comes when, a command succeeds or is refused for the abort, and nothing of the kernel breaks."""

    def work(number: int) -> None:
        for _ in range(40):
            outcome = driver.aes() if number % 2 else driver.hsm()
            assert outcome.error in (0, errno.EAGAIN)

    def reset() -> None:
        for _ in range(8):
            assert driver.run(driver.controller.abort, AbortType.L2_RESET) == 0

    together(6, lambda number: work(number) if number else reset())
    assert driver.hsm().error == driver.aes().error == 0


def test_level_2_flushes_all_queues(driver: Driver) -> None:
    hsm = start_unanswered(driver)
    driver.function.silent |= {256, 257}
    aes = [driver.start_aes(), driver.start_aes()]
    driver.await_unheard(256)
    driver.await_unheard(257)
    assert driver.run(driver.controller.abort, AbortType.L2_RESET) == 0
    for command in (hsm, *aes):
        assert command.join() == Outcome(InternalCode.ABORTED, None, errno.EAGAIN)


@pytest.mark.parametrize(
    ("pool", "code"), [("hsm_pool", InternalCode.CTRL_NOT_READY), ("aes_pool", InternalCode.QSELECT_FAILED)]
)
def test_callers_during_level_2(driver: Driver, pool: str, code: InternalCode) -> None:
    """First an abort is in progress; from the enable on the controller is not ready, for which AES has no code."""
    codes = []

    def call(access: Access) -> None:
        if (access.bar, access.offset) in ((Bar.REGISTERS, Register.CC), (Bar.REGISTERS, Register.ASQ)):
            codes.append(driver.controller.execute(getattr(driver.controller, pool), bytearray(128)).code)

    driver.function.after_write = call
    driver.run(driver.controller.abort, AbortType.L2_RESET)
    assert codes == [
        InternalCode.ABORT_IN_PROGRESS,  # CC.EN 0
        code,  # ASQ
        code,  # CC.EN 1
        code,  # entry sizes
    ]


def fail_to_recover(driver: Driver) -> None:
    driver.function.refused.add(AdminOpcode.IDENTIFY)
    with pytest.raises(Errno) as caught:
        driver.run(driver.controller.abort, AbortType.L2_RESET)
    assert caught.value.errno == errno.EFAULT
    driver.function.refused.clear()


def test_a_controller_that_does_not_come_up_again(driver: Driver) -> None:
    fail_to_recover(driver)
    assert driver.controller.state is ControllerState.NOT_INITIALIZED
    assert driver.hsm() == Outcome(InternalCode.CTRL_NOT_READY, None, errno.EAGAIN)
    assert driver.run(driver.controller.abort, AbortType.L2_RESET) == AbortResult.LEVEL_TWO_FAILED
    assert driver.machine.kernel.vfs.exists("/dev/azihsm0"), "the node stays"
    driver.unbind()
    driver.bind()
    assert driver.hsm().error == 0


def test_unbind_after_a_failed_recovery_frees_twice(function: BentFunction) -> None:
    with driver_on(function, {"double_free_after_failed_recovery": True}) as driver:
        fail_to_recover(driver)
        with pytest.raises(Oops) as caught:
            driver.unbind()
        assert caught.value.report.where.startswith("irq.py:"), "the list of its vector does not have the queue"
        kinds = [report.kind for report in driver.reports]
        assert kinds == [ReportKind.DMA_DOUBLE_FREE, ReportKind.DMA_DOUBLE_FREE, ReportKind.CRASH]


def test_a_timed_out_command_whose_recovery_fails(driver: Driver) -> None:
    command = start_unanswered(driver)
    driver.function.refused |= {AdminOpcode.DELETE_SQ, AdminOpcode.IDENTIFY}
    driver.time_out()
    outcome = command.join()
    assert isinstance(outcome, Outcome)
    assert outcome.error == errno.EAGAIN
    assert driver.controller.state is ControllerState.NOT_INITIALIZED


@pytest.mark.parametrize("leaks", [True, False])
def test_a_minor_leaks_at_each_level_2(function: BentFunction, leaks: bool) -> None:
    with driver_on(function, {"minor_leaks_at_level_2": leaks}) as driver:
        for _ in range(3):
            driver.run(driver.controller.abort, AbortType.L2_RESET)
        assert driver.machine.kernel.vfs.exists("/dev/azihsm0")
        driver.unbind()
        driver.bind()
        assert driver.machine.kernel.vfs.exists("/dev/azihsm3") == leaks
        assert driver.machine.kernel.vfs.exists("/dev/azihsm0") != leaks


# A PF that may not.


def test_a_pf_without_level_2_is_unusable_when_level_1_fails(function: BentFunction) -> None:
    with driver_on(function, pf_lvl2_abort_enabled=False) as driver:
        driver.controller.is_pf = True
        commands_of(driver)
        assert driver.run(driver.controller.abort, AbortType.L2_RESET) == 0
        assert commands_of(driver) == [], "nothing was done, and that is success"
        command = start_unanswered(driver)
        function.refused.add(AdminOpcode.DELETE_SQ)
        driver.time_out()
        driver.clock.expire(100 / 250)
        assert command.join() == Outcome(InternalCode.UNDEFINED, None, errno.EAGAIN)
        assert driver.controller.state is ControllerState.NOT_INITIALIZED
        assert [report.kind for report in driver.reports] == [ReportKind.WARN]
        assert not driver.controller.hsm_pool.queues[0].tags.outstanding()


def test_a_reset_that_is_not_allowed_can_say_so(function: BentFunction) -> None:
    with driver_on(function, {"level_2_off_is_success": False}, pf_lvl2_abort_enabled=False) as driver:
        driver.controller.is_pf = True
        with pytest.raises(Errno) as caught:
            driver.run(driver.controller.abort, AbortType.L2_RESET)
        assert caught.value.errno == errno.EOPNOTSUPP
        assert driver.hsm().error == 0
