# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Our own driver breaks no rule, over each way to a device, with interrupts and without."""

from __future__ import annotations

from pathlib import Path

import pytest

from ihsm.driver import Controller, DriverOptions
from ihsm.trace.files import numbered
from ihsm.trace.records import Entry
from ihsm.trace.rules import judge
from ihsm_abi.hsm_queue import ControlKind
from support.devices import HOSTS, open_device
from support.recorded import Recorded
from support.waiting import HANG_S

MESSAGE = b"\x01" * 100


def work(controller: Controller) -> None:
    """Commands one by one, and as many as the rings take at once."""
    for _ in range(3):
        controller.exchange(MESSAGE, ControlKind.NONE, None)
    waiting = [controller.submit(MESSAGE, ControlKind.NONE, None) for _ in range(20)]
    for each in waiting:
        each.result(HANG_S)


@pytest.mark.parametrize("interrupts", [True, False], ids=["interrupts", "polled"])
@pytest.mark.parametrize("host", [host for host in HOSTS if host != "loopback"])
def test_a_life_of_our_driver(host: str, interrupts: bool, tmp_path: Path) -> None:
    options = DriverOptions(interrupts=interrupts, hsm_entries=4, aes_entries=4, timeout_s=HANG_S)
    with open_device(host, tmp_path, resources=2) as device:
        recorded = Recorded(device.device.trace)
        with Controller(device.function, options) as controller:
            work(controller)
            controller.reset()
            work(controller)
            controller.reset(subsystem=True)
            work(controller)
        records = recorded.take()
    verdict = judge(numbered(records))
    assert [f"{breach.rule.name}: {breach.message}" for breach in verdict.breaches] == []
    assert sum(isinstance(record, Entry) and record.queue in (1, 2) for record in records) == 3 * 23
