# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How a probe fails, by cause, and what a device grants (spec 01 §12 end, §4.3, §6.5); another bind works."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import cast

import pytest

from ihsm.testing import DeviceFault
from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.registers import Cc, Register
from ihsm_abi.uapi import FpStatus
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.kthread import KThread
from support.claims import Covers
from support.flow import ABORTED, BRING_UP, Flow, answers, flow_on
from support.hsm_driver import ADMIN_TIMEOUT_S, BDF
from support.hsm_program import CREDENTIAL, encrypt, provisioned
from support.process import ServeProcess
from support.waiting import HANG_S

REFUSAL = int(AdminStatus.INVALID_FIELD)


@pytest.fixture
def flow(server: ServeProcess) -> Iterator[Flow]:
    """The driver, which has let go of its device."""
    with flow_on(server) as flow:
        flow.driver.unbind()
        flow.admin()
        yield flow
    assert [str(report) for report in flow.driver.reports] == []


def start_bind(flow: Flow) -> KThread:
    """On a thread of its own; its `join` returns errno, or 0."""

    def bind() -> int:
        try:
            flow.driver.bind()
        except Errno as error:
            return error.errno
        flow.driver.stop_monitor()
        return 0

    return flow.driver.machine.kernel.thread(bind, "bash")


def bind_error(flow: Flow) -> int:
    """Of a bind that does not wait."""
    return ended(start_bind(flow))


def ended(bind: KThread) -> int:
    return cast(int, bind.join())


def is_clean(flow: Flow, *, en: int = 0) -> None:
    """See that nothing is left, in the device CC.EN at most, and that the next bind works."""
    kernel = flow.driver.machine.kernel
    assert kernel.vfs.listdir("/dev") == []
    assert kernel.pci.device(BDF).driver is None
    flow.faults.clear()
    assert Cc(flow.driver.function.inner.read_bar(0, Register.CC, 4)).en == en
    flow.driver.bind()
    flow.driver.stop_monitor()
    flow.works()


def test_a_device_that_is_gone(flow: Flow) -> None:
    flow.faults.add("all-ones")
    assert bind_error(flow) == errno.ENODEV
    assert not flow.driver.says("probe with driver azihsm failed"), "which is no failure"
    is_clean(flow)


def test_a_device_that_goes_while_it_is_enabled(flow: Flow) -> None:
    """From the sixth read on, that of CSTS behind CAP."""
    flow.faults.add("all-ones", nth=6)
    assert bind_error(flow) == errno.ENODEV
    is_clean(flow, en=1)


def test_a_device_that_was_gone_for_a_moment(flow: Flow) -> None:
    """It looks as if it ran, and is disabled first."""
    flow.faults.add("all-ones", count=1)
    assert bind_error(flow) == 0
    flow.works()


def test_a_controller_that_is_never_ready(flow: Flow, covers: Covers) -> None:
    hit = flow.faults.add("never-ready")
    bind = start_bind(flow)
    flow.time_out_ready(hit)
    assert ended(bind) == errno.ETIMEDOUT
    assert flow.driver.says("probe with driver azihsm failed with error -110")
    assert flow.admin() == []
    # It may become ready now that nobody waits: the next bind finds it so.
    hit.clear()
    is_clean(flow, en=1)
    covers("fault/never-ready")


def test_a_controller_that_is_ready_in_time(flow: Flow, covers: Covers) -> None:
    hit = flow.faults.add("late-ready", reads=100)
    assert bind_error(flow) == 0
    assert hit.hits == 1
    flow.works()
    covers("fault/late-ready")


def test_a_controller_that_has_failed(flow: Flow) -> None:
    flow.faults.add("set-cfs", count=1)
    assert bind_error(flow) == errno.EFAULT
    assert flow.driver.says("probe with driver azihsm failed with error -14")
    is_clean(flow, en=1)


@pytest.mark.parametrize("number", range(9), ids=lambda number: f"{number}-{BRING_UP[number].name}")
def test_each_command_that_is_refused(flow: Flow, number: int) -> None:
    flow.faults.add("wrong-status", queue=0, nth=1 + number, count=1, status=REFUSAL)
    assert bind_error(flow) == errno.EFAULT
    assert flow.opcodes()[: number + 1] == BRING_UP[: number + 1]
    is_clean(flow)


@pytest.mark.parametrize("number", range(9), ids=lambda number: f"{number}-{BRING_UP[number].name}")
def test_each_command_that_is_not_answered(flow: Flow, number: int) -> None:
    hit = flow.faults.add("drop-completion", queue=0, nth=1 + number, count=1)
    bind = start_bind(flow)
    flow.time_out_admin(hit)
    assert ended(bind) == errno.EAGAIN
    assert flow.driver.says("probe with driver azihsm failed with error -11")
    is_clean(flow)


@pytest.mark.parametrize(("action", "values"), [("wrong-status", {"status": REFUSAL}), ("drop-completion", {})])
def test_capabilities_may_fail(flow: Flow, action: str, values: dict[str, int]) -> None:
    hit: DeviceFault = flow.on_admin(action, AdminOpcode.GET_FEATURES, count=1, **values)
    bind = start_bind(flow)
    if action == "drop-completion":
        flow.time_out_admin(hit)
    assert ended(bind) == 0
    assert not flow.driver.controller.gcm_workaround
    flow.works()


def test_a_recovery_that_fails_while_the_capabilities_are_awaited(flow: Flow) -> None:
    """Commands can arrive before that answer, so can their time-outs; the probe does not bring the controller back."""
    hit = flow.on_admin("drop-completion", AdminOpcode.GET_FEATURES, count=1)
    bind = start_bind(flow)
    hit.wait()
    flow.driver.clock.await_timer(ADMIN_TIMEOUT_S)
    flow.on_admin("wrong-status", AdminOpcode.DELETE_SQ, count=1, status=REFUSAL)
    flow.on_admin("wrong-status", AdminOpcode.IDENTIFY, count=1, status=REFUSAL)
    lost = flow.lose()
    with flow.in_vain():
        flow.time_out()
        assert answers(lost) == [ABORTED]
        flow.driver.clock.advance(ADMIN_TIMEOUT_S)
        assert ended(bind) == 0
    flow.is_bound_again()


def test_an_entry_that_the_device_cannot_read(flow: Flow) -> None:
    hit = flow.on_admin("fail-dma", AdminOpcode.IDENTIFY, part="entry", count=1)
    bind = start_bind(flow)
    hit.wait()
    flow.driver.clock.expire(ADMIN_TIMEOUT_S)
    assert ended(bind) == errno.EAGAIN
    is_clean(flow)


def test_a_page_that_the_device_cannot_write(flow: Flow) -> None:
    flow.on_admin("fail-dma", AdminOpcode.IDENTIFY, part="destination", count=1)
    assert bind_error(flow) == errno.EFAULT
    is_clean(flow)


def test_a_reset_in_the_middle(flow: Flow) -> None:
    hit = flow.on_admin("reset-function", AdminOpcode.CREATE_SQ, count=1)
    bind = start_bind(flow)
    hit.wait()
    for _ in (AdminOpcode.CREATE_SQ, AdminOpcode.DELETE_CQ):
        flow.driver.clock.expire(ADMIN_TIMEOUT_S)
    assert ended(bind) == errno.EAGAIN
    is_clean(flow)


def test_interrupts_that_never_come(flow: Flow) -> None:
    flow.faults.add("lose-interrupt")
    bind = start_bind(flow)
    flow.driver.clock.expire(ADMIN_TIMEOUT_S)
    assert ended(bind) == errno.EAGAIN
    is_clean(flow)


# What is granted.


def test_no_hsm_queues(flow: Flow, covers: Covers) -> None:
    flow.faults.add("grant-queues", hsm=0)
    assert bind_error(flow) == errno.ENOMEM
    assert flow.opcodes() == BRING_UP[:2]
    is_clean(flow)
    covers("fault/grant-queues")


def test_more_hsm_queues_than_there_are(flow: Flow) -> None:
    """The first is created, the second refused; the disable ends both."""
    flow.faults.add("grant-queues", hsm=2)
    assert bind_error(flow) == errno.EFAULT
    is_clean(flow)


def test_no_aes_queues(flow: Flow) -> None:
    """All else works without; an AES command has an error of its own for it."""
    flow.faults.add("grant-queues", aes=0)
    assert bind_error(flow) == 0
    assert flow.opcodes() == [*BRING_UP[:5], AdminOpcode.GET_FEATURES]
    assert flow.counter("admin/num_fpqs_created") == 0
    session = provisioned(flow.caller).open_session(CREDENTIAL)
    assert encrypt(flow.caller, session.session_id).extended == (FpStatus.DEVICE_NO_FP_QUEUES, errno.EINVAL)
    lost = flow.lose()
    flow.time_out()
    assert lost.result(HANG_S).error == errno.EAGAIN
    flow.works()


def test_one_aes_queue(flow: Flow) -> None:
    flow.faults.add("grant-queues", aes=1)
    assert bind_error(flow) == 0
    assert [queue.id for queue in flow.driver.controller.aes_pool.queues] == [256]
    flow.works()
