# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Completions that are wrong in themselves (spec 01 §5.1, §14.3)."""

from __future__ import annotations

import errno
from functools import partial

import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.aes_queue import AesStatus
from ihsm_abi.uapi import AbortType, InternalCode
from ihsm_kmod.hsm.execute import Outcome
from support.claims import Covers
from support.flow import ABORTED, HSM_QUEUE, LOST, Flow, answers, level_1
from support.hsm_driver import Driver
from support.hsm_program import CREDENTIAL, encrypt, provisioned, reset
from support.waiting import HANG_S, until

SLOTS = 16
NO_CID = 0xFFF0


def test_two_for_one_hsm_command(flow: Flow, warned: Driver, covers: Covers) -> None:
    hit = flow.faults.add("duplicate-completion", queue=HSM_QUEUE, count=1)
    assert flow.ask().error == 0
    hit.wait()
    until(lambda: warned.says("queue 1: completion of unknown command"), "the second is consumed")
    assert flow.counter("global/total_completions") == 1
    flow.works()
    covers("fault/duplicate-completion")


def test_two_for_one_aes_command(flow: Flow, warned: Driver) -> None:
    flow.faults.add("duplicate-completion", queue=256, count=1)
    assert flow.driver.aes().error == 0
    until(lambda: warned.says("queue 256: completion of unknown command"), "the second is consumed")
    flow.works()


def test_two_for_every_command(flow: Flow) -> None:
    """For longer than a ring."""
    flow.faults.add("duplicate-completion", queue=HSM_QUEUE)
    for _ in range(2 * SLOTS):
        assert flow.driver.hsm().error == 0
    flow.works()


def test_two_for_an_admin_command(flow: Flow, warned: Driver) -> None:
    lost = flow.lose()
    flow.on_admin("duplicate-completion", AdminOpcode.DELETE_SQ, count=1)
    flow.time_out()
    assert answers(lost) == [ABORTED]
    assert warned.says("queue 0: completion of unknown command")
    assert flow.admin() == level_1()
    flow.works()


def test_for_a_command_that_there_is_not(flow: Flow, warned: Driver, covers: Covers) -> None:
    lost = flow.lose("wrong-cid", cid=NO_CID)
    until(lambda: warned.says(f"completion of unknown command {NO_CID}"), "it is consumed")
    flow.time_out()
    assert answers(lost) == [ABORTED]
    assert flow.admin() == level_1()
    flow.works()
    covers("fault/wrong-cid")


def test_for_another_command(flow: Flow) -> None:
    """That one ends with what is not its own; the other waits in vain."""
    first = flow.lose()
    [queue] = flow.driver.controller.hsm_pool.queues
    [command] = queue.tags.outstanding()
    assert command.tag is not None
    second = flow.lose("wrong-cid", cid=command.tag)
    assert first.result(HANG_S).error == 0
    flow.time_out()
    assert answers(second) == [ABORTED]
    flow.works()


def test_an_admin_command_with_another_id(flow: Flow) -> None:
    lost = flow.lose()
    hit = flow.on_admin("wrong-cid", AdminOpcode.CREATE_SQ, count=1, cid=NO_CID)
    with flow.anew():
        flow.time_out()
        flow.time_out_admin(hit)
        assert answers(lost) == [ABORTED]


def test_of_the_wrong_phase(flow: Flow, covers: Covers) -> None:
    """It is no entry to the driver, nor is anything behind it: level 1, which leaves the CQ alone, helps nobody."""
    for start in (partial(flow.lose, "wrong-phase"), flow.start_ask, flow.start_ask):
        lost = start()
        flow.time_out()
        assert answers(lost) == [ABORTED]
    assert flow.admin() == level_1() * 3
    with flow.anew():
        assert reset(flow.caller, AbortType.L2_RESET).error == 0
    covers("fault/wrong-phase")


def test_of_an_aes_queue_with_the_wrong_phase(flow: Flow) -> None:
    lost = flow.lose_aes("wrong-phase", 256)
    assert flow.driver.aes().error == 0
    flow.time_out()
    assert lost.join() == LOST
    assert reset(flow.caller, AbortType.L2_NSSR).error == 0
    flow.works()


def full(flow: Flow) -> int:
    """Head that makes the ring look full, told with the next completion: one behind the tail then."""
    [queue] = flow.driver.controller.hsm_pool.queues
    return (queue.tail + 2) % SLOTS


def test_a_queue_that_looks_full_for_good(flow: Flow, covers: Covers) -> None:
    """Nothing aborts or heals it but level 2: the picker's last resort takes no command."""
    flow.faults.add("wrong-sqhd", queue=HSM_QUEUE, count=1, sqhd=full(flow))
    assert flow.driver.hsm().error == 0
    for _ in range(3):
        assert flow.driver.hsm() == Outcome(InternalCode.UNDEFINED, None, errno.EAGAIN)
    assert flow.admin() == []
    assert flow.driver.clock.timers == []
    with flow.anew():
        assert reset(flow.caller).error == 0
    covers("fault/wrong-sqhd")


def test_a_head_that_is_always_0(flow: Flow) -> None:
    """One submission fewer than slots, and no more."""
    flow.faults.add("wrong-sqhd", queue=HSM_QUEUE, sqhd=0)
    assert [flow.driver.hsm().error for _ in range(SLOTS)] == [0] * (SLOTS - 1) + [errno.EAGAIN]
    flow.faults.clear()
    assert flow.driver.hsm().error == errno.EAGAIN
    with flow.anew():
        assert reset(flow.caller).error == 0


def test_an_aes_queue_that_looks_full_is_passed_by(flow: Flow) -> None:
    flow.faults.add("wrong-sqhd", queue=256, count=1, sqhd=2)
    assert [flow.driver.aes().error for _ in range(6)] == [0] * 6
    assert flow.counter("fp_sq257/total_ios_submitted_to_hw") == 5
    assert reset(flow.caller).error == 0
    flow.works()


def test_a_status_of_an_hsm_command(flow: Flow, covers: Covers) -> None:
    """The program has it; to the driver it is an answer."""
    flow.faults.add("wrong-status", queue=HSM_QUEUE, count=1, status=int(AdminStatus.INTERNAL_ERROR))
    answer = flow.ask()
    assert (answer.error, answer.structure["status"]) == (0, 0x007)
    assert flow.counter("global/total_error_completions") == flow.counter("cp_sq1/total_ios_in_error") == 1
    assert flow.admin() == []
    flow.works()
    covers("fault/wrong-status")


@pytest.mark.parametrize("status", [AesStatus.INVALID_FIELD_GCM, 0x7FFF])
def test_a_status_of_an_aes_command(flow: Flow, status: int) -> None:
    session = provisioned(flow.caller).open_session(CREDENTIAL)
    flow.faults.add("wrong-status", session=session.session_id, opcode=0, count=1, status=int(status), err=0x1234)
    result = encrypt(flow.caller, session.session_id)
    assert (result.error, result.answer["result"], result.answer["extended_status"]) == (0, status, 0x1234)
    assert flow.counter("global/total_error_completions") == 1
    flow.works()


def test_success_of_an_aes_command_that_has_done_nothing(flow: Flow) -> None:
    session = provisioned(flow.caller).open_session(CREDENTIAL)
    flow.faults.add("wrong-status", session=session.session_id, opcode=0, count=1, status=0, err=0)
    result = encrypt(flow.caller, session.session_id)
    assert (result.error, result.answer["result"]) == (0, 0)
    assert (result.answer["extended_status"], result.answer["byte_count"]) == (0, 0), "as many bytes as it says"
    flow.works()
