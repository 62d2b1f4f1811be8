# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Commands that must not be seen (spec 01 §8.2, §13): whoever waits for anything is told at once."""

from __future__ import annotations

import pytest

from ihsm.errors import CommandSeenError
from ihsm_abi.admin import AdminOpcode
from support.claims import Covers
from support.flow import ABORTED, HSM_QUEUE, Flow, answers, level_1
from support.waiting import HANG_S, until

NO_TIME_S = 0.0
"""Of a wait for what shall not come."""


def test_one_that_is_seen(flow: Flow, covers: Covers) -> None:
    never = flow.on_admin("never", AdminOpcode.DELETE_SQ)
    held = flow.faults.add("drop-completion", queue=HSM_QUEUE, count=1)
    lost = flow.start_ask()
    assert held.wait() == 1, "nothing has been seen yet"
    assert never.wait(timeout_s=NO_TIME_S) == 0
    flow.time_out()
    assert answers(lost) == [ABORTED]
    text = rf"fault {never.number}, never queue=0 opcode=0: such a command came, 1 hits"
    for fault in (never, held):
        with pytest.raises(CommandSeenError, match=text):
            fault.wait(hits=5)
    assert never.hits == 1
    with pytest.raises(CommandSeenError, match=text):
        flow.faults.clear()
    assert flow.admin() == level_1(), "it was carried out as any other"
    flow.works()
    covers("fault/never")


def test_one_that_is_not_seen(flow: Flow) -> None:
    """With CFS there is no level 1."""
    never = flow.on_admin("never", AdminOpcode.DELETE_SQ)
    flow.faults.add("set-cfs", count=1)
    lost = flow.lose()
    with flow.anew():
        flow.time_out()
        assert answers(lost) == [ABORTED]
    assert never.wait(timeout_s=NO_TIME_S) == 0
    flow.faults.clear()


def test_it_takes_the_event_from_no_other_fault(flow: Flow) -> None:
    never = flow.faults.add("never", queue=HSM_QUEUE)
    held = flow.faults.add("hold-command", queue=HSM_QUEUE)
    lost = flow.start_ask()
    until(lambda: (never.hits, held.hits) == (1, 1), "both")
    with pytest.raises(CommandSeenError):
        flow.faults.clear()
    assert lost.result(HANG_S).error == 0
    flow.works()


def test_a_command_that_the_device_refuses_anyhow_is_seen(flow: Flow) -> None:
    never = flow.faults.add("never", queue=256)
    assert flow.driver.aes().error == 0
    assert never.hits == 1
    with pytest.raises(CommandSeenError):
        never.clear()
