# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device whose process stands still for a while (spec 01 §8.1, §9)."""

from __future__ import annotations

import errno
import os
import signal

from support.claims import Covers
from support.flow import Flow, answers
from support.hsm_driver import COMMAND_TIMEOUT_S, GRACE_S
from support.process import ServeProcess, stands_still
from support.waiting import HANG_S, until

LONG_MS = 3_600_000


def test_a_command_is_answered_when_it_goes_on(flow: Flow, server: ServeProcess, covers: Covers) -> None:
    """Nothing is answered meanwhile; within the time limit of a command the driver notices nothing else."""
    flow.faults.add("pause-process", ms=LONG_MS)
    until(lambda: stands_still(server.pid), "the pause")
    command = flow.start_ask()
    flow.driver.clock.await_timer(COMMAND_TIMEOUT_S)
    assert not command.done()
    os.kill(server.pid, signal.SIGCONT)
    assert command.result(HANG_S).error == 0
    assert flow.admin() == []
    flow.works()
    covers("fault/pause-process")


def test_a_command_that_runs_out_of_time(flow: Flow, server: ServeProcess) -> None:
    """Its caller is given up; level 1 reads CSTS, which takes as long as the pause, and succeeds then."""
    flow.faults.add("pause-process", ms=LONG_MS)
    until(lambda: stands_still(server.pid), "the pause")
    command = flow.start_ask()
    flow.driver.clock.expire(COMMAND_TIMEOUT_S)
    flow.driver.clock.expire(GRACE_S)
    os.kill(server.pid, signal.SIGCONT)
    assert answers(command)[0][1] == errno.EAGAIN
    flow.works()


def test_it_goes_on_by_itself(flow: Flow) -> None:
    """A hit is told when it is over."""
    hit = flow.faults.add("pause-process", ms=1)
    assert hit.wait() == 1
    assert hit.left == 0
    flow.works()
