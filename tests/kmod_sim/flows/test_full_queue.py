# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A queue all of whose tags are in use when the device stops answering (spec 01 §5.1, "hang hazard")."""

from __future__ import annotations

import errno

import pytest

from ihsm_kmod.kernel.errors import Oops
from ihsm_kmod.kernel.kthread import KThread
from ihsm_kmod.kernel.report import ReportKind
from support.flow import ABORTED, HSM_QUEUE, LOST, Flow, answers, flow_on, level_1
from support.hsm_driver import COMMAND_TIMEOUT_S, GRACE_S
from support.hsm_program import is_awaited
from support.process import ServeProcess
from support.waiting import until

SLOTS = 4
HUNG_S = 120
"""As long as a task may sleep uninterruptibly."""


def fill(flow: Flow, action: str) -> list[KThread]:
    """As many commands as the queue has tags, all with the device."""
    hit = flow.faults.add(action, queue=HSM_QUEUE)
    callers = [flow.driver.start_hsm() for _ in range(SLOTS - 1)]
    hit.wait(1 if action == "hold-command" else SLOTS - 1)  # behind a held command the device fetches no other
    flow.driver.clock.await_timer(COMMAND_TIMEOUT_S, SLOTS - 1)
    return callers


def one_more(flow: Flow) -> KThread:
    """A caller that finds no tag, and has the submit lock while it waits for one."""
    caller = flow.driver.start_hsm()
    [queue] = flow.driver.controller.hsm_pool.queues
    until(lambda: queue.submit_lock.owner is not None and is_asleep(flow), "it waits for a tag")
    return caller


def is_asleep(flow: Flow) -> bool:
    """Whether it has been counted, which it is before it wants a tag."""
    return flow.counter("cp_sq1/total_ios_submitted_to_hw") == SLOTS


@pytest.mark.parametrize("slots", [2, SLOTS])
def test_as_many_callers_as_tags(server: ServeProcess, slots: int) -> None:
    """One level 1 is for all of them."""
    with flow_on(server, num_hsm_slots=slots) as flow:
        lost = [flow.lose() for _ in range(slots - 1)]
        flow.time_out(slots - 1)
        assert answers(*lost) == [ABORTED] * (slots - 1)
        assert flow.admin() == level_1(slots=slots)
        flow.works()
        assert flow.driver.reports == []


def test_one_caller_more_and_nobody_gets_on(server: ServeProcess) -> None:
    """Neither the abort nor a caller; the kernel's check for hung tasks ends it."""
    with flow_on(server, num_hsm_slots=SLOTS) as flow:
        callers = [*fill(flow, "drop-completion"), one_more(flow)]
        flow.time_out(SLOTS - 1)
        [queue] = flow.driver.controller.hsm_pool.queues
        until(lambda: is_awaited(flow.driver, queue.submit_lock), "level 1 wants the lock")
        assert flow.counter("global/total_lvl1_aborts") == 1
        assert flow.admin() == []
        flow.driver.clock.advance(HUNG_S)
        for caller in callers:
            with pytest.raises(Oops):
                caller.join()
        assert flow.driver.reports[0].kind is ReportKind.HUNG_TASK
        assert {report.kind for report in flow.driver.reports} == {ReportKind.HUNG_TASK}


def test_one_caller_more_and_the_device_answers_in_time(server: ServeProcess) -> None:
    with flow_on(server, num_hsm_slots=SLOTS) as flow:
        callers = [*fill(flow, "hold-command"), one_more(flow)]
        flow.faults.clear()
        for caller in callers:
            assert caller.join().error == 0  # type: ignore[attr-defined]
        flow.works()
        assert flow.driver.reports == []


def test_one_caller_more_and_the_device_answers_when_the_abort_waits(server: ServeProcess) -> None:
    """The first completion gives the fourth caller its tag and the abort the lock."""
    with flow_on(server, num_hsm_slots=SLOTS) as flow:
        callers = [*fill(flow, "hold-command"), one_more(flow)]
        flow.time_out(SLOTS - 1)
        [queue] = flow.driver.controller.hsm_pool.queues
        until(lambda: is_awaited(flow.driver, queue.submit_lock), "level 1 wants the lock")
        flow.faults.clear()
        outcomes = [caller.join() for caller in callers]
        assert all(outcome.error == errno.EAGAIN for outcome in outcomes[:-1])  # type: ignore[attr-defined]
        assert outcomes[-1] == LOST or outcomes[-1].error == 0  # type: ignore[attr-defined]
        assert flow.admin() == level_1(slots=SLOTS)
        flow.works()
        assert flow.driver.reports == []


def test_without_the_lock_the_abort_gets_on(server: ServeProcess) -> None:
    """What the driver had better do."""
    with flow_on(server, {"full_queue_sleeps_locked": False}, num_hsm_slots=SLOTS) as flow:
        callers = fill(flow, "drop-completion")
        more = flow.driver.start_hsm()
        until(lambda: is_asleep(flow), "it waits for a tag")
        flow.faults.clear()
        flow.driver.clock.expire(COMMAND_TIMEOUT_S, SLOTS - 1)
        flow.driver.clock.expire(GRACE_S)
        assert [caller.join() for caller in callers] == [LOST] * 3
        assert more.join().error in (0, errno.EAGAIN)  # type: ignore[attr-defined]
        flow.works()
