# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Interrupts that come without end (spec 01 §5.2): each is looked at, and work goes on."""

from __future__ import annotations

import pytest

from ihsm_abi.pci import ADMIN_VECTOR, AES_VECTORS, HSM_VECTORS
from support.claims import Covers
from support.flow import Flow
from support.hsm_driver import BDF

COMMANDS = 20


@pytest.mark.parametrize("vector", [ADMIN_VECTOR, HSM_VECTORS.start, AES_VECTORS.start])
def test_commands_end_once_in_a_storm(flow: Flow, vector: int, covers: Covers) -> None:
    storm = flow.faults.add("storm-interrupt", vector=vector, us=100)
    storm.wait(hits=100)
    for _ in range(COMMANDS):
        assert flow.driver.hsm().error == 0
        assert flow.driver.aes().error == 0
    storm.wait(hits=storm.hits + 100)
    storm.clear()
    assert flow.counter("global/total_completions") == 2 * COMMANDS
    assert not flow.driver.says("unknown command")
    assert flow.admin() == []
    flow.works()
    covers("fault/storm-interrupt")


def test_a_storm_ends_by_itself(flow: Flow) -> None:
    storm = flow.faults.add("storm-interrupt", vector=HSM_VECTORS.start, us=10, count=50)
    assert storm.wait(hits=50) == 50
    assert storm.left == 0
    flow.works()


def test_a_bind_in_a_storm(flow: Flow) -> None:
    """Of the vector of the admin queue, whose interrupt is asked for before there is any command."""
    storm = flow.faults.add("storm-interrupt", vector=ADMIN_VECTOR, us=100)
    flow.driver.unbind()
    storm.wait(hits=storm.hits + 50)
    flow.driver.bind()
    flow.driver.stop_monitor()
    assert flow.driver.machine.kernel.pci.probe_error(BDF) == 0
    flow.works()
