# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The health monitor (spec 01 §8.4)."""

from __future__ import annotations

import errno

import pytest

from ihsm_abi.admin import AdminOpcode
from ihsm_abi.pci import Bar
from ihsm_abi.registers import GONE, Cc, Csts, Register
from ihsm_abi.uapi import ControllerState, InternalCode
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.hsm.health import PERIOD_MS
from ihsm_kmod.kernel.errors import Oops
from ihsm_kmod.kernel.report import ReportKind
from support.bent_function import Access, BentFunction
from support.hsm_driver import Driver, commands_of, driver_on
from support.waiting import stays, until

PERIOD_S = PERIOD_MS / 1000


def looks(driver: Driver) -> int:
    return len([one for one in driver.function.accesses if (one.bar, one.offset) == (Bar.REGISTERS, Register.CSTS)])


def fail_until_disabled(driver: Driver) -> None:
    """CSTS.CFS is set until CC.EN is cleared."""

    def heal(access: Access) -> None:
        if (access.bar, access.offset) == (Bar.REGISTERS, Register.CC) and not Cc(access.value).en:
            driver.function.reads.clear()

    driver.function.after_write = heal
    driver.function.reads[Register.CSTS] = lambda value: Csts(value).replace(cfs=1)


def test_it_looks_every_six_seconds_and_at_csts_alone(driver: Driver) -> None:
    driver.function.take()
    for number in range(1, 4):
        driver.clock.expire(PERIOD_S)
        until(lambda number=number: looks(driver) == number, "it has looked")
    assert {(one.op, one.bar, one.offset) for one in driver.function.accesses} == {
        ("read", Bar.REGISTERS, Register.CSTS)
    }


def test_a_fatal_status_is_recovered_by_level_2_alone(driver: Driver) -> None:
    entropy = driver.controller.entropy
    commands_of(driver)
    fail_until_disabled(driver)
    driver.clock.expire(PERIOD_S)
    # It is due again once it has recovered the controller.
    driver.clock.await_timer(PERIOD_S)
    assert commands_of(driver)[0][0] is AdminOpcode.IDENTIFY
    assert driver.controller.entropy != entropy
    assert driver.hsm().error == 0


def test_it_goes_on_after_a_recovery(driver: Driver) -> None:
    for _ in range(3):
        fail_until_disabled(driver)
        driver.clock.expire(PERIOD_S)
        driver.clock.await_timer(PERIOD_S)
        assert driver.controller.state is ControllerState.READY


def test_callers_are_let_go_when_it_recovers(driver: Driver) -> None:
    driver.function.silent.add(1)
    # Not due at the same time as the monitor.
    driver.clock.advance(1)
    command = driver.start_hsm()
    driver.await_unheard(1)
    fail_until_disabled(driver)
    driver.clock.expire(PERIOD_S - 1)
    assert command.join() == Outcome(InternalCode.ABORTED, None, errno.EAGAIN)


@pytest.mark.parametrize("ends", [True, False])
def test_it_ends_when_a_recovery_fails(function: BentFunction, ends: bool) -> None:
    """A device that is gone has all bits set, CFS among them."""
    with driver_on(function, {"monitor_ends_after_failed_recovery": ends}) as driver:
        function.reads[Register.CSTS] = lambda value: GONE
        driver.clock.expire(PERIOD_S)
        until(lambda: driver.says("is not watched any more") or driver.says("recovery failed"), "it has failed")
        assert driver.controller.state is ControllerState.NOT_INITIALIZED
        function.take()
        if ends:
            driver.clock.advance(10 * PERIOD_S)
            assert stays(lambda: not function.accesses)
        else:
            driver.clock.expire(PERIOD_S)
            until(lambda: function.accesses, "it looks again")


def test_a_removal_stops_it(driver: Driver) -> None:
    driver.unbind()
    driver.function.take()
    driver.clock.advance(10 * PERIOD_S)
    assert stays(lambda: not driver.function.accesses)


def test_a_look_while_the_register_pointer_is_null(function: BentFunction, monkeypatch: pytest.MonkeyPatch) -> None:
    with driver_on(function, {"registers_null_in_level_2": True}) as driver:
        initialize = Controller.initialize

        def after_a_look(controller: Controller, *, keep_node: bool = False) -> None:
            controller.registers.status()  # what the monitor does, in the window before the pointer is set again
            initialize(controller, keep_node=keep_node)

        monkeypatch.setattr(Controller, "initialize", after_a_look)
        fail_until_disabled(driver)
        driver.clock.expire(PERIOD_S)
        until(lambda: driver.machine.kernel.crashed, "the kernel has crashed")
        crashed = driver.machine.kernel.crashed
        assert isinstance(crashed, Oops)
        assert crashed.report.kind is ReportKind.NULL_POINTER
        assert crashed.report.where.startswith("registers.py:")
