# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Level 1 that the device does not let succeed, and level 2 that helps then (spec 01 §8.2, §8.3)."""

from __future__ import annotations

import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus
from support.claims import Covers
from support.flow import ABORTED, BRING_UP, HSM_QUEUE, LOST, Flow, answers, level_1
from support.hsm_driver import ADMIN_TIMEOUT_S, COMMAND_TIMEOUT_S, GRACE_S

LONG_MS = 3_600_000
ANSWERS = [AdminOpcode.DELETE_SQ, AdminOpcode.CREATE_SQ]
SENT = {AdminOpcode.DELETE_SQ: ANSWERS[:1], AdminOpcode.CREATE_SQ: ANSWERS}
"""Commands of a level 1 that fails with one of them."""


def test_by_a_fatal_status(flow: Flow) -> None:
    """No command is sent."""
    lost = flow.lose()
    hit = flow.faults.add("set-cfs", count=1)
    with flow.anew():
        flow.time_out()
        assert answers(lost) == [ABORTED]
        assert hit.hits == 1
    assert flow.counter("admin/num_q_delete_cmds") == 0


@pytest.mark.parametrize("opcode", ANSWERS)
@pytest.mark.parametrize("queue", [HSM_QUEUE, 257])
def test_by_a_refusal(flow: Flow, opcode: AdminOpcode, queue: int) -> None:
    if queue != HSM_QUEUE:
        flow.driver.aes()
    lost = flow.lose_aes(queue=queue) if queue != HSM_QUEUE else flow.lose()
    hit = flow.on_admin("wrong-status", opcode, count=1, status=int(AdminStatus.INTERNAL_ERROR))
    flow.admin()
    flow.time_out()
    if queue == HSM_QUEUE:
        assert answers(lost) == [ABORTED]
    else:
        assert lost.join() == LOST
    assert hit.hits == 1
    assert flow.opcodes() == SENT[opcode] + BRING_UP
    flow.works()


@pytest.mark.parametrize("opcode", ANSWERS)
@pytest.mark.parametrize("action", ["drop-completion", "hold-command", "wrong-phase"])
def test_without_an_answer(flow: Flow, opcode: AdminOpcode, action: str) -> None:
    lost = flow.lose()
    hit = flow.on_admin(action, opcode, count=1)
    flow.time_out()
    flow.time_out_admin(hit)
    assert answers(lost) == [ABORTED]
    assert flow.opcodes() == SENT[opcode] + BRING_UP
    flow.works()


@pytest.mark.parametrize("queue", [HSM_QUEUE, 256])
@pytest.mark.parametrize(("action", "values"), [("hold-command", {}), ("delay-completion", {"ms": LONG_MS})])
def test_because_the_command_is_still_outstanding(
    flow: Flow, queue: int, action: str, values: dict[str, int], covers: Covers
) -> None:
    """DELETE_SQ waits for it, for longer than the driver; the disable drops it."""
    hit = flow.faults.add(action, **values, queue=queue, count=1)
    lost = flow.driver.start_hsm() if queue == HSM_QUEUE else flow.driver.start_aes()
    hit.wait()
    with flow.anew():
        flow.time_out()
        flow.driver.clock.expire(ADMIN_TIMEOUT_S)
        assert lost.join() == LOST
    assert flow.counter("admin/num_q_delete_cmds") == 0
    covers(f"fault/{action}")


def test_all_callers_are_let_go(flow: Flow) -> None:
    """Level 1 was for one queue, level 2 is for all."""
    lost = [flow.lose(), flow.lose()]
    flow.driver.clock.await_timer(COMMAND_TIMEOUT_S, 2)
    flow.driver.clock.advance(1)
    aes = [flow.lose_aes(queue=queue) for queue in (256, 257)]
    hit = flow.on_admin("wrong-status", AdminOpcode.DELETE_SQ, count=1, status=int(AdminStatus.INTERNAL_ERROR))
    flow.admin()
    flow.driver.clock.await_timer(COMMAND_TIMEOUT_S, 2)
    flow.driver.clock.expire(COMMAND_TIMEOUT_S - 1)
    flow.driver.clock.expire(GRACE_S)
    assert answers(*lost) == [ABORTED] * 2
    assert [one.join() for one in aes] == [LOST] * 2
    assert hit.hits == 1
    assert flow.opcodes() == [AdminOpcode.DELETE_SQ, *BRING_UP]
    flow.works()


def test_again_and_again(flow: Flow) -> None:
    """Each time a new controller, and no queue that is left over."""
    for _ in range(3):
        lost = flow.lose()
        flow.on_admin("wrong-status", AdminOpcode.CREATE_SQ, count=1, status=int(AdminStatus.INTERNAL_ERROR))
        with flow.anew():
            flow.time_out()
            assert answers(lost) == [ABORTED]
    lost = flow.lose()
    flow.admin()
    flow.time_out()
    assert answers(lost) == [ABORTED]
    assert flow.admin() == level_1()
    flow.works()
