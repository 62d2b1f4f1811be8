# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that the device does not answer, and level 1, which is never escalated by count (spec 01 §8.1, §8.2)."""

from __future__ import annotations

import errno

from ihsm_abi.aes_queue import AesStatus
from ihsm_abi.hsm_queue import HsmOpcode
from ihsm_abi.uapi import GCM_IOCTL, GENERIC_IOCTL, InternalCode
from support.claims import Covers
from support.flow import ABORTED, HSM_QUEUE, LOST, Flow, answers, level_1
from support.hsm_driver import COMMAND_TIMEOUT_S, GRACE_S
from support.hsm_program import CREDENTIAL, encrypt, extended, provisioned
from support.ioctls import kept
from support.waiting import HANG_S

MANY = 8


def test_an_hsm_command(flow: Flow, covers: Covers) -> None:
    lost = flow.lose()
    flow.time_out()
    assert answers(lost) == [ABORTED]
    assert lost.result().structure["status"] == kept("status", GENERIC_IOCTL)
    assert flow.admin() == level_1()
    counters = {
        "cp_sq1/total_ios_timedout": 1, "cp_sq1/num_level1_aborts": 1, "cp_sq1/total_ios_submitted_to_hw": 1,
        "cp_sq1/total_ios_completed_by_hw": 0, "global/total_lvl1_aborts": 1, "global/total_cmds_aborted": 1,
        "global/total_lvl2_aborts": 0, "admin/num_q_delete_cmds": 1,
    }  # fmt: skip
    assert {name: flow.counter(name) for name in counters} == counters
    flow.works()
    covers("fault/drop-completion")


def test_an_aes_command(flow: Flow) -> None:
    session = provisioned(flow.caller).open_session(CREDENTIAL)
    hit = flow.faults.add("drop-completion", session=session.session_id, opcode=0, count=1)
    lost = flow.threads.submit(encrypt, flow.caller, session.session_id)
    hit.wait()
    [queue] = [queue for queue in flow.driver.controller.aes_pool.queues if queue.tags.outstanding()]
    flow.time_out()
    result = lost.result(HANG_S)
    assert (result.error, result.value, *result.extended) == (0, 0, InternalCode.ABORTED, 0)
    assert (result.answer["byte_count"], result.answer["result"]) == (0, kept("result", GCM_IOCTL))
    assert flow.admin() == level_1(queue.id)
    assert flow.counter(f"fp_sq{queue.id}/total_ios_timedout") == flow.counter("global/total_lvl1_aborts") == 1
    for _ in range(2):
        assert encrypt(flow.caller, session.session_id).answer["result"] == AesStatus.INVALID_FIELD_GCM
    flow.works()


def test_one_abort_is_for_all_that_were_lost(flow: Flow) -> None:
    lost = [flow.lose() for _ in range(3)]
    flow.time_out(3)
    assert answers(*lost) == [ABORTED] * 3
    assert flow.admin() == level_1()
    assert flow.counter("global/total_cmds_aborted") == flow.counter("cp_sq1/total_ios_timedout") == 3
    flow.works()


def test_many_in_a_row_on_the_hsm_queue(flow: Flow) -> None:
    for _ in range(MANY):
        lost = flow.lose()
        flow.time_out()
        assert answers(lost) == [ABORTED]
    assert flow.admin() == level_1() * MANY
    assert flow.counter("global/total_lvl1_aborts") == flow.counter("cp_sq1/num_level1_aborts") == MANY
    assert flow.counter("global/total_lvl2_aborts") == 0
    flow.works()


def test_many_in_a_row_on_an_aes_queue(flow: Flow) -> None:
    for number in range(MANY):
        lost = flow.lose_aes(queue=256)
        flow.time_out()
        assert lost.join() == LOST
        assert flow.driver.aes().error == 0, "the other queue, so that the next is for this one again"
        assert flow.counter("fp_sq256/num_level1_aborts") == number + 1
    assert flow.admin() == level_1(256) * MANY
    flow.works()


def test_other_queues_work_meanwhile(flow: Flow) -> None:
    lost = flow.lose()
    assert [flow.driver.aes().error for _ in range(4)] == [0] * 4
    flow.time_out()
    assert answers(lost) == [ABORTED]
    flow.works()


def test_an_answer_in_the_grace_is_no_abort(flow: Flow) -> None:
    """A command that is held, until the abort has begun: it has failed all the same."""
    hit = flow.faults.add("hold-command", queue=HSM_QUEUE, count=1)
    late = flow.start_ask()
    hit.wait()
    flow.driver.clock.expire(COMMAND_TIMEOUT_S)
    flow.driver.clock.await_timer(GRACE_S)
    assert extended(flow.ask()) == (0x04000001, errno.EAGAIN)
    hit.clear()
    assert answers(late) == [(kept("extended_status", GENERIC_IOCTL), errno.EAGAIN)]
    assert flow.admin() == []
    assert flow.counter("global/total_lvl1_aborts") == 0
    flow.works()


def test_the_flush_of_a_file_that_is_closed(flow: Flow) -> None:
    """It times out as any command does, and the file is closed all the same."""
    provisioned(flow.caller).open_session(CREDENTIAL)
    hit = flow.faults.add("drop-completion", queue=HSM_QUEUE, opcode=int(HsmOpcode.FLUSH_SESSION), count=1)
    closing = flow.threads.submit(flow.caller.process.close, flow.caller.fd)
    hit.wait()
    flow.time_out()
    closing.result(HANG_S)
    assert flow.admin() == level_1()
    assert flow.counter("cp_sq1/total_ios_timedout") == 1
    assert flow.driver.hsm().error == 0
