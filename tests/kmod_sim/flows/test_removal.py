# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Removal in the middle of a command or of a recovery (spec 01 §13, §4.6)."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.registers import Cc, Register
from ihsm_abi.uapi import GENERIC_IOCTL, AbortType
from ihsm_kmod.kernel.errors import Oops
from ihsm_kmod.kernel.kthread import KThread
from ihsm_kmod.kernel.report import ReportKind
from support.flow import ABORTED, HSM_QUEUE, Flow, answers, flow_on
from support.hsm_driver import ADMIN_TIMEOUT_S, COMMAND_TIMEOUT_S, GRACE_S
from support.hsm_program import is_awaited
from support.ioctls import kept
from support.process import ServeProcess
from support.waiting import HANG_S, until

TEARDOWN = [AdminOpcode.DELETE_SQ, AdminOpcode.DELETE_CQ] * 3
FORGOTTEN = (kept("extended_status", GENERIC_IOCTL), errno.EAGAIN)
"""Of a command whose queue has gone: nothing says why it failed."""


@pytest.fixture
def careless(server: ServeProcess) -> Iterator[Flow]:
    """The driver, which lets go of a function while a call still has memory of it: that is reported, and no more."""
    with flow_on(server) as flow:
        yield flow
    assert {report.kind for report in flow.driver.reports} == {ReportKind.DMA_LEAK}


def start_unbind(flow: Flow) -> KThread:
    """On a thread of its own."""
    return flow.driver.machine.kernel.thread(flow.driver.unbind, "bash")


def is_gone(flow: Flow) -> None:
    """See that nothing is left of the driver, and that another bind works."""
    assert flow.driver.machine.kernel.vfs.listdir("/dev") == []
    assert Cc(flow.driver.function.inner.read_bar(0, Register.CC, 4)).en == 0
    flow.is_bound_again()


def test_unbind_in_the_middle_of_a_command_without_answer(careless: Flow) -> None:
    """Nobody ends the command; when its time is up there is no controller that could be recovered."""
    lost = careless.lose()
    careless.driver.clock.await_timer(COMMAND_TIMEOUT_S)
    careless.admin()
    careless.driver.unbind()
    assert careless.opcodes() == TEARDOWN
    assert not lost.done()
    careless.driver.clock.expire(COMMAND_TIMEOUT_S)
    assert answers(lost) == [FORGOTTEN]
    is_gone(careless)


def test_unbind_while_a_caller_waits_for_a_tag(server: ServeProcess) -> None:
    """It has the queue's lock, and gets its tag when the queue has gone."""
    with flow_on(server, num_hsm_slots=3) as flow:
        lost = [flow.lose()]
        assert flow.ask().error == 0  # now the driver knows that there is room in the ring again
        lost.append(flow.lose())
        [queue] = flow.driver.controller.hsm_pool.queues
        late = flow.start_ask()
        until(lambda: flow.counter("cp_sq1/total_ios_submitted_to_hw") == 4 and queue.submit_lock.owner, "it sleeps")
        flow.driver.clock.await_timer(COMMAND_TIMEOUT_S, 2)
        flow.driver.unbind()
        flow.driver.function.take()
        flow.driver.clock.expire(COMMAND_TIMEOUT_S, 2)
        assert answers(*lost) == [FORGOTTEN] * 2
        until(lambda: late.done() or flow.driver.function.accesses, "it has its tag")
        assert not flow.driver.function.take(), "no doorbell of a queue that is not there"
        assert answers(late) == [ABORTED]
        assert {report.kind for report in flow.driver.reports} == {ReportKind.DMA_LEAK}
        is_gone(flow)


@pytest.mark.parametrize("queue", [HSM_QUEUE, 256])
def test_unbind_in_the_middle_of_a_held_command(flow: Flow, queue: int) -> None:
    """DELETE_SQ waits for it, for longer than the driver, and the command's own time is up before."""
    hit = flow.faults.add("hold-command", queue=queue, count=1)
    lost = flow.driver.start_hsm() if queue == HSM_QUEUE else flow.driver.start_aes()
    hit.wait()
    flow.driver.clock.await_timer(COMMAND_TIMEOUT_S)
    removal = start_unbind(flow)
    flow.driver.clock.expire(ADMIN_TIMEOUT_S)
    assert lost.join().error == errno.EAGAIN  # type: ignore[attr-defined]
    hit.clear()
    removal.join()
    is_gone(flow)


def test_a_held_command_that_is_let_go_while_the_queue_is_deleted(careless: Flow) -> None:
    """Its completion is never consumed, for the queue is off its vector already."""
    hit = careless.faults.add("hold-command", queue=HSM_QUEUE, count=1)
    lost = careless.start_ask()
    hit.wait()
    careless.driver.clock.await_timer(COMMAND_TIMEOUT_S)
    careless.admin()
    removal = start_unbind(careless)
    until(lambda: len(careless.driver.function.admin) == 5, "the HSM queue is being deleted")
    hit.clear()
    removal.join()
    assert careless.opcodes() == TEARDOWN
    careless.driver.clock.expire(COMMAND_TIMEOUT_S)
    assert answers(lost) == [FORGOTTEN]
    is_gone(careless)


@pytest.mark.parametrize("action", ["drop-completion", "wrong-status"])
@pytest.mark.parametrize("opcode", TEARDOWN[:2])
def test_deletes_that_fail_do_not_keep_it(flow: Flow, opcode: AdminOpcode, action: str) -> None:
    """A refusal costs nothing, a missing answer 30 s."""
    is_refusal = action == "wrong-status"
    hit = flow.on_admin(action, opcode, **({"status": int(AdminStatus.INTERNAL_ERROR)} if is_refusal else {}))
    flow.admin()
    removal = start_unbind(flow)
    for number in (1, 2, 3):
        if is_refusal:
            hit.wait(number)
        else:
            flow.time_out_admin(hit, number)
    removal.join()
    assert flow.opcodes() == TEARDOWN
    is_gone(flow)


def test_a_controller_that_is_never_disabled(flow: Flow) -> None:
    hit = flow.faults.add("never-disabled")
    removal = start_unbind(flow)
    flow.time_out_ready(hit)
    removal.join()
    assert flow.driver.says("disable failed: ETIMEDOUT")
    is_gone(flow)


def test_unbind_waits_for_a_level_1(flow: Flow) -> None:
    lost = flow.lose()
    hit = flow.on_admin("hold-command", AdminOpcode.DELETE_SQ, count=1)
    flow.driver.clock.expire(COMMAND_TIMEOUT_S)
    flow.driver.clock.expire(GRACE_S)
    hit.wait()
    controller = flow.driver.controller
    removal = start_unbind(flow)
    until(lambda: is_awaited(flow.driver, controller.abort_mutex), "unbind waits")
    flow.admin()
    hit.clear()
    removal.join()
    assert answers(lost) == [ABORTED]
    assert flow.opcodes() == [AdminOpcode.CREATE_SQ, *TEARDOWN]
    is_gone(flow)


@pytest.mark.parametrize("kind", [AbortType.L2_NSSR, AbortType.L2_RESET])
def test_unbind_waits_for_a_level_2(flow: Flow, kind: AbortType) -> None:
    hit = flow.on_admin("hold-command", AdminOpcode.IDENTIFY, count=1)
    done = flow.start_reset(kind)
    hit.wait()
    controller = flow.driver.controller
    removal = start_unbind(flow)
    until(lambda: is_awaited(flow.driver, controller.abort_mutex), "unbind waits")
    hit.clear()
    removal.join()
    assert done.result(HANG_S).error == 0
    assert flow.opcodes()[-6:] == TEARDOWN
    is_gone(flow)


def test_unbind_waits_for_a_level_2_that_fails(flow: Flow) -> None:
    hit = flow.on_admin("hold-command", AdminOpcode.IDENTIFY, count=1)
    done = flow.start_reset(AbortType.L2_RESET)
    hit.wait()
    controller = flow.driver.controller
    removal = start_unbind(flow)
    until(lambda: is_awaited(flow.driver, controller.abort_mutex), "unbind waits")
    flow.driver.clock.expire(ADMIN_TIMEOUT_S)
    removal.join()
    assert done.result(HANG_S).error == errno.EAGAIN
    is_gone(flow)


def test_the_machine_goes_down_under_a_command(flow: Flow) -> None:
    """The controller is disabled, which drops what it holds; nobody is told, for nobody runs any more."""
    lost = flow.lose("hold-command")
    flow.admin()
    flow.driver.machine.kernel.power_off()
    assert flow.opcodes() == []
    assert Cc(flow.driver.function.inner.read_bar(0, Register.CC, 4)).en == 0
    with pytest.raises(Oops, match="powered off"):
        lost.result(HANG_S)
