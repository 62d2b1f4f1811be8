# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Interrupts that are lost, late, or come for nothing (spec 01 §5.2): nobody polls."""

from __future__ import annotations

import pytest

from ihsm_abi.admin import AdminOpcode
from ihsm_abi.pci import ADMIN_VECTOR, AES_VECTORS, HSM_VECTORS
from support.claims import Covers
from support.flow import ABORTED, BRING_UP, LOST, Flow, answers, level_1
from support.hsm_driver import ADMIN_TIMEOUT_S, COMMAND_TIMEOUT_S, Driver
from support.waiting import HANG_S

HSM = HSM_VECTORS.start
AES = AES_VECTORS.start
LONG_MS = 3_600_000


def test_a_lost_one_is_a_command_without_answer(flow: Flow, warned: Driver, covers: Covers) -> None:
    """Its completion is found with the next one's, when nobody knows it any more."""
    hit = flow.faults.add("lose-interrupt", vector=HSM, count=1)
    lost = flow.start_ask()
    hit.wait()
    flow.time_out()
    assert answers(lost) == [ABORTED]
    assert flow.admin() == level_1()
    assert flow.driver.hsm().error == 0
    assert warned.says("queue 1: completion of unknown command")
    flow.works()
    covers("fault/lose-interrupt")


def test_a_lost_one_is_made_good_by_the_next(flow: Flow) -> None:
    hit = flow.faults.add("lose-interrupt", vector=HSM, count=1)
    first = flow.start_ask()
    hit.wait()
    flow.driver.clock.await_timer(COMMAND_TIMEOUT_S)
    assert flow.ask().error == 0
    assert first.result(HANG_S).error == 0
    flow.works()


def test_a_lost_one_is_made_good_by_one_for_nothing(flow: Flow) -> None:
    hit = flow.faults.add("lose-interrupt", vector=HSM, count=1)
    first = flow.start_ask()
    hit.wait()
    flow.faults.add("spurious-interrupt", vector=HSM)
    assert first.result(HANG_S).error == 0
    assert flow.admin() == []
    flow.works()


def test_a_lost_one_of_an_aes_queue(flow: Flow) -> None:
    """Each queue has a vector of its own here, so that the other's does not help."""
    hit = flow.faults.add("lose-interrupt", vector=AES, count=1)
    lost = flow.driver.start_aes()
    hit.wait()
    assert flow.driver.aes().error == 0
    flow.time_out()
    assert lost.join() == LOST
    assert flow.admin() == level_1(256)
    flow.works()


def test_a_lost_one_of_the_admin_queue(flow: Flow) -> None:
    """That of DELETE_SQ, in the middle of a recovery."""
    lost = flow.lose()
    hit = flow.faults.add("lose-interrupt", vector=ADMIN_VECTOR, count=1)
    flow.time_out()
    flow.time_out_admin(hit)
    assert answers(lost) == [ABORTED]
    assert flow.opcodes() == [AdminOpcode.DELETE_SQ, *BRING_UP]
    flow.works()


def test_all_are_lost(flow: Flow) -> None:
    """Level 1 cannot do without, nor can level 2."""
    hit = flow.faults.add("lose-interrupt")
    lost = flow.start_ask()
    hit.wait()
    with flow.in_vain():
        flow.time_out()
        for _ in (AdminOpcode.DELETE_SQ, AdminOpcode.IDENTIFY):
            flow.driver.clock.expire(ADMIN_TIMEOUT_S)
        assert answers(lost) == [ABORTED]
    flow.is_bound_again()


def test_a_late_one(flow: Flow) -> None:
    hit = flow.faults.add("delay-interrupt", vector=HSM, count=1, ms=1)
    assert flow.ask().error == 0
    assert hit.hits == 1
    assert flow.admin() == []


def test_one_that_is_too_late(flow: Flow, covers: Covers) -> None:
    """As one that is lost."""
    hit = flow.faults.add("delay-interrupt", vector=HSM, count=1, ms=LONG_MS)
    lost = flow.start_ask()
    hit.wait()
    flow.time_out()
    assert answers(lost) == [ABORTED]
    flow.works()
    covers("fault/delay-interrupt")


@pytest.mark.parametrize("vector", [ADMIN_VECTOR, HSM, AES, AES + 1])
def test_one_for_nothing(flow: Flow, vector: int, covers: Covers) -> None:
    for _ in range(3):
        flow.faults.add("spurious-interrupt", vector=vector).wait()
    assert flow.counter("global/total_completions") == 0
    assert not flow.driver.says("unknown command")
    flow.works()
    covers("fault/spurious-interrupt")


@pytest.mark.parametrize("vector", [HSM + 1, AES - 1, AES + 2, 31])
def test_one_of_a_vector_that_nobody_has(flow: Flow, vector: int) -> None:
    flow.faults.add("spurious-interrupt", vector=vector).wait()
    flow.works()


@pytest.mark.parametrize("vector", [ADMIN_VECTOR, HSM, AES])
def test_one_when_the_driver_has_let_go(flow: Flow, vector: int) -> None:
    flow.driver.unbind()
    flow.faults.add("spurious-interrupt", vector=vector).wait()
    flow.driver.bind()
    flow.driver.stop_monitor()
    flow.works()


@pytest.mark.parametrize("vector", [ADMIN_VECTOR, HSM, AES])
def test_one_for_nothing_while_a_command_is_held(flow: Flow, vector: int) -> None:
    lost = flow.lose("hold-command")
    flow.faults.add("spurious-interrupt", vector=vector).wait()
    flow.faults.clear()
    assert answers(lost)[0][1] == 0
    flow.works()
