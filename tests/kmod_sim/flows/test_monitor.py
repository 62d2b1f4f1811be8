# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the health monitor finds, and what becomes of it (spec 01 §8.4)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.registers import Csts, Register
from ihsm_abi.uapi import ControllerState
from ihsm_kmod.hsm.health import PERIOD_MS
from ihsm_kmod.kernel.errors import Errno
from support.claims import Covers
from support.flow import ABORTED, LOST, Flow, answers, flow_on
from support.hsm_driver import ADMIN_TIMEOUT_S, COMMAND_TIMEOUT_S
from support.hsm_program import reset
from support.process import ServeProcess
from support.waiting import stays, until

PERIOD_S = PERIOD_MS / 1000


@pytest.fixture
def flow(server: ServeProcess) -> Iterator[Flow]:
    """The driver with its health monitor, which looks for the first time in PERIOD_S."""
    with flow_on(server, monitor=True) as flow:
        yield flow
    assert [str(report) for report in flow.driver.reports] == []


def look(flow: Flow) -> None:
    """Let it look, and do what it does then; it is due again when that was no failure."""
    flow.driver.clock.expire(PERIOD_S)
    flow.driver.clock.await_timer(PERIOD_S)


def look_for_the_last_time(flow: Flow) -> None:
    """Let it look, and fail to recover what it finds."""
    flow.driver.clock.expire(PERIOD_S)
    until(lambda: flow.driver.says("is not watched any more"), "it has given up")
    flow.driver.function.take()
    flow.driver.clock.advance(10 * PERIOD_S)
    assert stays(lambda: not flow.driver.function.accesses)


def test_a_fatal_status(flow: Flow, covers: Covers) -> None:
    """Level 1 is left out."""
    hit = flow.faults.add("set-cfs", count=1)
    with flow.anew():
        look(flow)
        assert hit.hits == 1
        assert flow.counter("admin/num_q_delete_cmds") == 0
    covers("fault/set-cfs")


def test_a_fatal_status_again_and_again(flow: Flow) -> None:
    for _ in range(3):
        flow.faults.add("set-cfs", count=1)
        with flow.anew():
            look(flow)
    look(flow)
    assert flow.opcodes() == [], "there is nothing more to find"


def test_an_admin_queue_that_has_stopped(flow: Flow) -> None:
    """An entry that the device cannot read; who sent it waits for longer than the monitor."""
    hit = flow.on_admin("fail-dma", AdminOpcode.GET_RES_CNT, part="entry", count=1)
    command = flow.driver.machine.kernel.thread(lambda: flow.driver.controller.admin().get_resource_count(0), "app")
    hit.wait()
    until(lambda: Csts(flow.driver.function.inner.read_bar(0, Register.CSTS, 4)).cfs, "the device says so")
    flow.driver.clock.await_timer(ADMIN_TIMEOUT_S)
    with flow.anew():
        look(flow)
        assert not command.is_done
    flow.driver.clock.advance(ADMIN_TIMEOUT_S)
    with pytest.raises(Errno, match="EAGAIN"):
        command.join()


def test_commands_under_way_end(flow: Flow) -> None:
    flow.driver.clock.advance(1)  # not due at the same moment
    lost = [flow.lose(), flow.lose("hold-command")]
    aes = flow.lose_aes()
    flow.driver.clock.await_timer(COMMAND_TIMEOUT_S, 3)
    flow.faults.add("set-cfs", count=1)
    with flow.anew():
        flow.driver.clock.expire(PERIOD_S - 1)
        flow.driver.clock.await_timer(PERIOD_S)
        assert answers(*lost) == [ABORTED] * 2
        assert aes.join() == LOST


@pytest.mark.parametrize("opcode", [AdminOpcode.IDENTIFY, AdminOpcode.CREATE_SQ])
def test_a_recovery_that_fails_is_its_last(flow: Flow, opcode: AdminOpcode) -> None:
    flow.faults.add("set-cfs", count=1)
    flow.on_admin("wrong-status", opcode, status=int(AdminStatus.INTERNAL_ERROR), count=1)
    with flow.in_vain():
        look_for_the_last_time(flow)
    flow.is_bound_again()


def test_a_controller_that_fails_as_soon_as_it_is_up(flow: Flow) -> None:
    flow.faults.add("set-cfs")
    with flow.in_vain():
        look_for_the_last_time(flow)
    flow.is_bound_again()


def test_a_device_that_is_gone_for_good(flow: Flow) -> None:
    """All ones have CFS too."""
    flow.faults.add("all-ones")
    with flow.in_vain():
        look_for_the_last_time(flow)
        assert flow.driver.says("disable failed: ENODEV")
        assert flow.opcodes() == []
    flow.is_bound_again()


def test_a_device_that_was_gone_for_a_moment(flow: Flow) -> None:
    hit = flow.faults.add("all-ones", count=1)
    with flow.anew():
        look(flow)
        assert hit.hits == 1


def test_a_reset_behind_the_driver_looks_healthy(flow: Flow) -> None:
    """CSTS is 0 then."""
    flow.driver.function.inner.reset()
    look(flow)
    assert flow.opcodes() == []
    assert flow.driver.controller.state is ControllerState.READY
    with flow.anew():
        assert reset(flow.caller).error == 0
