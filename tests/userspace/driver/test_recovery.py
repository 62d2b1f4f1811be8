# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recovery of one queue: what the device has completed counts, what it has not fails, the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.driver import Controller, DriverOptions
from ihsm.errors import QueueClosedError
from ihsm_abi.hsm_queue import ControlKind
from support.devices import DeviceUnderTest, open_device
from support.waiting import HANG_S, until


@pytest.fixture
def device(tmp_path: Path) -> Iterator[DeviceUnderTest]:
    with open_device("vfio-user", tmp_path, resources=2) as device:
        yield device


@pytest.fixture
def controller(device: DeviceUnderTest) -> Iterator[Controller]:
    """Polled, so that nothing is reaped unless somebody waits."""
    with Controller(device.function, DriverOptions(interrupts=False)) as controller:
        yield controller


def test_a_completion_that_has_arrived_is_not_lost(controller: Controller) -> None:
    queue = controller.hsm_queues[0]
    arrived = queue.submit_message(b"arrived", ControlKind.NONE, None, timeout_s=HANG_S)
    until(lambda: queue._cq.ready() == 1, "a completion that nobody reaps")
    controller.recover_queue(queue)
    assert arrived.result().message == b"devirra"


def test_a_command_that_was_not_fetched_fails(device: DeviceUnderTest, controller: Controller) -> None:
    queue = controller.hsm_queues[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controller._bells, "ring", lambda offset, value: None)
        unseen = queue.submit_message(b"unseen", ControlKind.NONE, None, timeout_s=HANG_S)
    controller.recover_queue(queue)
    with pytest.raises(QueueClosedError, match="HSM queue 1 was recovered"):
        unseen.result()
    assert queue.outstanding == 0
    assert controller.exchange(b"ab", ControlKind.NONE, None).message == b"ba"


def test_the_other_queues_go_on(device: DeviceUnderTest, controller: Controller) -> None:
    first, second = controller.hsm_queues
    slow = second.submit_message(b"slow", ControlKind.NONE, None, timeout_s=HANG_S)
    controller.recover_queue(first)
    device.module.gate.set()
    assert slow.result().message == b"wols"
    assert second.submit_message(b"ab", ControlKind.NONE, None, timeout_s=HANG_S).result().message == b"ba"
