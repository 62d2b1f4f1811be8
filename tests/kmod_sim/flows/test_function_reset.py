# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A function level reset behind the driver's back (spec 01 §8.6)."""

from __future__ import annotations

import pytest

from ihsm_abi.admin import AdminOpcode
from ihsm_abi.registers import Csts, Register
from support.claims import Covers
from support.flow import ABORTED, BRING_UP, LOST, Flow, answers
from support.hsm_driver import ADMIN_TIMEOUT_S, BDF


def recovers(flow: Flow) -> None:
    """Time-out, grace, a DELETE_SQ that nobody answers, level 2."""
    began = flow.driver.clock.now_ns()
    flow.time_out()
    flow.driver.clock.expire(ADMIN_TIMEOUT_S)
    assert (flow.driver.clock.now_ns() - began) / 1e9 == pytest.approx(36.4)


def test_in_the_middle_of_an_hsm_command(flow: Flow, covers: Covers) -> None:
    lost = flow.lose("reset-function")
    assert Csts(flow.driver.function.inner.read_bar(0, Register.CSTS, 4)) == 0
    with flow.anew():
        recovers(flow)
        assert answers(lost) == [ABORTED]
    covers("fault/reset-function")


def test_in_the_middle_of_an_aes_command(flow: Flow) -> None:
    lost = flow.lose_aes("reset-function", 256)
    with flow.anew():
        recovers(flow)
        assert lost.join() == LOST


def test_by_another_hand(flow: Flow) -> None:
    """The function is reset while nothing is under way; the next command finds that out."""
    flow.driver.machine.kernel.pci.reset(BDF)
    lost = flow.start_ask()
    flow.admin()
    recovers(flow)
    assert answers(lost) == [ABORTED]
    assert flow.opcodes() == [AdminOpcode.DELETE_SQ, *BRING_UP]
    flow.works()


def test_by_another_hand_under_a_command(flow: Flow) -> None:
    held = flow.lose("hold-command")
    flow.driver.machine.kernel.pci.reset(BDF)
    with flow.anew():
        recovers(flow)
        assert answers(held) == [ABORTED]


def test_in_the_middle_of_a_recovery(flow: Flow) -> None:
    """The command that level 1 begins with: it is never answered, and level 2 helps."""
    lost = flow.lose()
    hit = flow.on_admin("reset-function", AdminOpcode.DELETE_SQ, count=1)
    with flow.anew():
        flow.time_out()
        flow.time_out_admin(hit)
        assert answers(lost) == [ABORTED]


def test_in_the_middle_of_a_bring_up(flow: Flow) -> None:
    """Nothing tries a second time."""
    lost = flow.lose()
    flow.faults.add("set-cfs", count=1)
    hit = flow.on_admin("reset-function", AdminOpcode.CREATE_CQ, count=1)
    with flow.in_vain():
        flow.time_out()
        flow.time_out_admin(hit)
        assert answers(lost) == [ABORTED]
    flow.is_bound_again()


def test_again_and_again(flow: Flow) -> None:
    for _ in range(3):
        lost = flow.lose("reset-function")
        with flow.anew():
            recovers(flow)
            assert answers(lost) == [ABORTED]
