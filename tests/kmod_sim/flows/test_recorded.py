# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in the recorded trace, done with the real device: the driver does what it was seen to do.

From its first look at CSTS on, for the doorbells before tell how many commands there were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest

from ihsm.bus import PciFunction
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register
from ihsm_abi.uapi import AbortType
from support.driver_side import Recorder
from support.flow import ABORTED, LOST, Flow, answers, flow_on
from support.hsm_driver import ADMIN_TIMEOUT_S, BDF
from support.hsm_program import reset
from support.process import ServeProcess
from support.traces import COMMANDS, comparable, load

PERIOD_S: Final = 6
"""Of the health monitor."""
Lines = list[tuple[Any, ...]]


@dataclass
class Recorded:
    """A flow, and what it does to the device."""

    flow: Flow
    recorder: Recorder

    def did(self) -> Lines:
        """What the driver did since the last call."""
        return comparable(self.recorder.take())


@contextmanager
def recorded_on(server: ServeProcess, *, monitor: bool = False) -> Iterator[Recorded]:
    """The driver, bound; what it did until then is forgotten."""
    recorders: list[Recorder] = []

    def seen_by(function: PciFunction) -> Recorder:
        recorders.append(Recorder(function))
        return recorders[0]

    with flow_on(server, monitor=monitor, seen_by=seen_by) as flow:
        recorders[0].take()
        yield Recorded(flow, recorders[0])
    assert flow.driver.reports == []


@pytest.fixture
def recorded(server: ServeProcess) -> Iterator[Recorded]:
    with recorded_on(server) as recorded:
        yield recorded


def step(name: str) -> Lines:
    """What the driver did in the step whose name begins so."""
    lines = load(COMMANDS)
    starts = [number for number, line in enumerate(lines) if line["op"] == "step"]
    start = next(number for number in starts if lines[number]["name"].startswith(name))
    end = next((number for number in starts if number > start), len(lines))
    return comparable(lines[start + 1 : end])


def from_csts(lines: Lines) -> Lines:
    """From the first look at CSTS on."""
    return lines[next(n for n, line in enumerate(lines) if line[:3] == ("read", Bar.REGISTERS, Register.CSTS)) :]


def test_an_hsm_command_without_answer(recorded: Recorded) -> None:
    lost = recorded.flow.lose()
    recorded.flow.time_out()
    assert answers(lost) == [ABORTED]
    assert from_csts(recorded.did()) == from_csts(step("hsm command never answered"))
    recorded.flow.works()


def test_an_aes_command_without_answer(recorded: Recorded) -> None:
    """It was the second level 1 there, so that the admin doorbells are two commands on."""
    flow = recorded.flow
    lost = flow.lose()
    flow.time_out()
    assert answers(lost) == [ABORTED]
    assert flow.driver.aes().error == 0, "so that it is queue 257's turn"
    recorded.did()
    aes = flow.lose_aes(queue=257)
    flow.time_out()
    assert aes.join() == LOST
    assert from_csts(recorded.did()) == from_csts(step("xts command never answered"))
    flow.works()


@pytest.mark.parametrize(
    ("kind", "name"), [(AbortType.L2_RESET, "reset ioctl type 2"), (AbortType.L2_NSSR, "reset ioctl type 1 (NSSR)")]
)
def test_a_reset(recorded: Recorded, kind: AbortType, name: str) -> None:
    assert reset(recorded.flow.caller, kind).error == 0
    assert recorded.did() == step(name)
    recorded.flow.works()


def test_a_fatal_status(server: ServeProcess) -> None:
    with recorded_on(server, monitor=True) as recorded:
        recorded.flow.faults.add("set-cfs", count=1)
        recorded.flow.driver.clock.expire(PERIOD_S)
        recorded.flow.driver.clock.await_timer(PERIOD_S)  # it is due again when it has recovered the controller
        assert recorded.did() == step("CSTS.CFS set")
        recorded.flow.works()


def test_a_function_reset_behind_the_driver(recorded: Recorded) -> None:
    flow = recorded.flow
    flow.driver.machine.kernel.pci.reset(BDF)
    lost = flow.start_ask()
    flow.time_out()
    flow.driver.clock.expire(ADMIN_TIMEOUT_S)
    assert answers(lost) == [ABORTED]
    assert from_csts(recorded.did()) == from_csts(step("function level reset through sysfs, driver bound"))
    flow.works()
