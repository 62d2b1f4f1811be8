# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Coroutines that submit: their order where a ring is full, and what the device is told of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ihsm import aio
from ihsm.driver import Controller, DriverOptions, FastPathSession
from ihsm.driver.aes_commands import draw_iv
from ihsm.errors import (
    AesCommandError,
    QueueClosedError,
)
from ihsm_abi.hsm_queue import ControlKind
from support.coroutines import eventually, exchange, fetched, run, started
from support.devices import DeviceUnderTest, open_device
from support.waiting import HANG_S, ended, one_round, until

pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture(params=["vfio-user", "doorbell-page"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeviceUnderTest]:
    with open_device(request.param, tmp_path) as device:
        yield device


@pytest.fixture(params=["interrupts", "polled"])
def options(request: pytest.FixtureRequest) -> DriverOptions:
    """One HSM queue of three slots."""
    return DriverOptions(interrupts=request.param == "interrupts", hsm_queues=1, hsm_entries=4)


def test_commands_of_one_round_share_doorbells(device: DeviceUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is announced at once, then several together, and none is forgotten."""
    with Controller(device.function, DriverOptions(hsm_queues=1, hsm_entries=64)) as controller:
        rung: list[int] = []
        ring = controller._bells.ring
        sq = controller.hsm_queues[0].doorbell_offsets[0]

        def recording(offset: int, value: int) -> None:
            if offset == sq:
                rung.append(value)
            ring(offset, value)

        async def main() -> list[bytes]:
            tasks = (exchange(controller, b"slow%d" % number) for number in range(30))
            answers = asyncio.gather(*tasks)
            await eventually(lambda: len(rung) == 5)
            device.module.gate.set()
            return [reply.message for reply in await answers]

        monkeypatch.setattr(controller._bells, "ring", recording)
        assert run(main()) == [(b"slow%d" % number)[::-1] for number in range(30)]
        assert rung == [1, 9, 17, 25, 30]


def test_in_a_full_ring_who_came_first_is_first(
    device: DeviceUnderTest, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = controller.hsm_queues[0]
    submitted: list[bytes] = []
    submit = queue.submit_message

    def recording(message: bytes, *arguments: Any, **options: Any) -> Any:
        submitted.append(message)
        return submit(message, *arguments, **options)

    monkeypatch.setattr(queue, "submit_message", recording)
    messages = [b"slow%d" % number for number in range(3)] + [b"%d" % number for number in range(40)]

    async def main() -> list[bytes]:
        tasks = [started(exchange(controller, message)) for message in messages]
        await fetched(device.module)
        assert submitted == messages[:3]
        tasks[3].cancel()
        late = started(exchange(controller, b"late"))
        device.module.gate.set()
        replies = [(await task).message for task in (*tasks[:3], *tasks[4:], late)]
        assert tasks[3].cancelled()
        return replies

    expected = [*messages[:3], *messages[4:], b"late"]
    assert run(main()) == [message[::-1] for message in expected]
    assert submitted == expected


def test_an_aes_command_waits_for_room_as_well(device: DeviceUnderTest) -> None:
    async def main() -> list[Any]:
        queue = controller.aes_queues[0]
        command = partial(queue.submit_gcm, FastPathSession(1, 0), 5, b"text", decrypt=False, iv=draw_iv())
        tasks = (aio.performed(queue, command, timeout_s=HANG_S) for _ in range(100))
        return await asyncio.gather(*tasks, return_exceptions=True)

    with Controller(device.function, DriverOptions(aes_entries=4)) as controller:
        assert {type(outcome) for outcome in run(main())} == {AesCommandError}


def test_room_that_others_make_is_taken(device: DeviceUnderTest, controller: Controller) -> None:
    """All slots are a thread's, and it is the thread that reaps."""
    queue = controller.hsm_queues[0]
    slow = [queue.submit_message(b"slow%d" % n, ControlKind.NONE, None, timeout_s=HANG_S) for n in range(3)]
    thread = threading.Thread(target=lambda: [each.result() for each in slow])
    thread.start()
    until(queue.line.leader.locked, "a thread that leads")

    async def main() -> bytes:
        mine = started(exchange(controller, b"mine"))
        await fetched(device.module)
        device.module.gate.set()
        return (await mine).message

    assert run(main()) == b"enim"
    ended(thread)


def test_room_is_not_missed_where_others_clear_the_event(device: DeviceUnderTest, controller: Controller) -> None:
    queue = controller.hsm_queues[0]
    slow = [queue.submit_message(b"slow%d" % n, ControlKind.NONE, None, timeout_s=HANG_S) for n in range(3)]

    async def main() -> bytes:
        mine = started(exchange(controller, b"mine"))
        await fetched(device.module)
        await eventually(lambda: queue.line._listeners)
        device.module.gate.set()
        for each in slow:  # all of them before the loop has another look
            each.result()
        return (await mine).message

    assert run(main()) == b"enim"


def test_who_waits_for_room_is_served_after_a_reset(device: DeviceUnderTest, controller: Controller) -> None:
    async def main() -> bytes:
        tasks = [started(exchange(controller, b"slow%d" % number)) for number in range(3)]
        await fetched(device.module)
        waiting = started(exchange(controller, b"ab"))
        await one_round()
        controller.reset()
        device.module.gate.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [QueueClosedError] * 3
        return (await waiting).message

    assert run(main()) == b"ba"
