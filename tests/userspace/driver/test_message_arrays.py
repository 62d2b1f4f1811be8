# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Many messages from an array: each gets its own answer or its own error, and no memory is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ihsm.driver import Controller, DriverOptions
from ihsm.errors import (
    ArgumentError,
    ArgumentTypeError,
    CommandTimeoutError,
    HsmCommandError,
    QueueClosedError,
    SessionClosedError,
)
from ihsm.replies import Replies
from ihsm_abi.hsm_queue import ControlKind
from support.coroutines import eventually, run
from support.devices import DeviceUnderTest, open_device
from support.waiting import HANG_S, ended, one_round, until

pytestmark = pytest.mark.usefixtures("patient")

Exchange = Callable[[Controller, NDArray[np.uint8]], Replies]


@pytest.fixture(params=["vfio-user", "doorbell-page"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeviceUnderTest]:
    with open_device(request.param, tmp_path) as device:
        yield device


def waiting(controller: Controller, messages: NDArray[np.uint8]) -> Replies:
    return controller.exchange_many(messages, ControlKind.NONE, None, 64, timeout_s=HANG_S)


def awaited(controller: Controller, messages: NDArray[np.uint8], *, is_alone: bool = True) -> Replies:
    exchanged = controller.exchange_many_async(messages, ControlKind.NONE, None, 64, timeout_s=HANG_S)
    return run(exchanged, is_alone=is_alone)


def awaited_beside_a_reset(controller: Controller, messages: NDArray[np.uint8]) -> Replies:
    return awaited(controller, messages, is_alone=False)


WAYS = pytest.mark.parametrize("exchange", [waiting, awaited])


def numbered(count: int, prefix: bytes = b"") -> NDArray[np.uint8]:
    """Messages that all differ."""
    return rows([prefix + b"%06d" % number for number in range(count)])


def rows(messages: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(messages), np.uint8).reshape(len(messages), len(messages[0]))


@WAYS
@pytest.mark.parametrize("interrupts", [True, False])
@pytest.mark.parametrize("entries", [2, 5, 32, 257])
def test_every_message_gets_its_answer(
    device: DeviceUnderTest, exchange: Exchange, interrupts: bool, entries: int
) -> None:
    with Controller(device.function, DriverOptions(interrupts=interrupts, hsm_entries=entries)) as controller:
        free = controller.free_bytes
        for count in (0, 1, 300):
            messages = numbered(300)[:count]
            replies = exchange(controller, messages)
            assert not replies.errors
            assert (replies.lengths == 6).all()
            assert (replies.messages[:, :6] == messages[:, ::-1]).all()
        assert controller.free_bytes == free
        assert all(queue.outstanding == 0 for queue in controller.hsm_queues)


@WAYS
def test_each_failure_is_told_by_itself(device: DeviceUnderTest, exchange: Exchange) -> None:
    with Controller(device.function) as controller:
        messages = [b"ab%06d" % number for number in range(70)]
        messages[3] = messages[65] = b"fail  .."
        replies = exchange(controller, rows(messages))
        assert sorted(replies.errors) == [3, 65]
        assert all(isinstance(error, HsmCommandError) for error in replies.errors.values())
        assert [replies.message(number) for number in range(70)] == [
            b"" if number in replies.errors else message[::-1] for number, message in enumerate(messages)
        ]


@WAYS
def test_responses_are_cut_to_their_room(device: DeviceUnderTest, exchange: Exchange) -> None:
    with Controller(device.function) as controller:
        replies = exchange(controller, rows([b"long0000", b"abcdefgh"]))
        assert [len(replies.message(number)) for number in (0, 1)] == [64, 8]


@pytest.mark.parametrize("exchange", [waiting, awaited_beside_a_reset])
def test_a_queue_that_goes_fails_what_has_no_answer(device: DeviceUnderTest, exchange: Exchange) -> None:
    """What has completed before has its answer all the same."""
    with Controller(device.function, DriverOptions(hsm_queues=1)) as controller:
        free = controller.free_bytes
        messages = [b"quick%03d" % number for number in range(100)]
        messages[70] = b"slow 070"
        found: list[Replies] = []
        thread = threading.Thread(target=lambda: found.append(exchange(controller, rows(messages))))
        thread.start()
        assert device.module.started.acquire(timeout=HANG_S)
        controller.reset()
        ended(thread)
        device.module.gate.set()
        (replies,) = found
        assert 70 in replies.errors
        assert all(isinstance(error, QueueClosedError) for error in replies.errors.values())
        for number, message in enumerate(messages):
            assert replies.message(number) == (b"" if number in replies.errors else message[::-1])
        until(lambda: controller.free_bytes == free, "the memory of all parts")


@pytest.mark.parametrize("is_awaited", [False, True])
def test_what_may_not_be_sent_any_more_is_not(device: DeviceUnderTest, is_awaited: bool) -> None:
    """Whoever owns what they use is asked before each part."""
    asked: list[int] = []

    def check() -> None:
        asked.append(len(asked))
        if len(asked) > 1:
            raise SessionClosedError("closed")

    with Controller(device.function) as controller:
        messages = numbered(300)
        if is_awaited:
            replies = run(controller.exchange_many_async(messages, ControlKind.NONE, None, 64, check=check))
        else:
            replies = controller.exchange_many(messages, ControlKind.NONE, None, 64, check=check)
        assert 0 < len(replies.errors) < len(messages)
        assert all(isinstance(error, SessionClosedError) for error in replies.errors.values())
        for number, message in enumerate(messages):
            assert replies.message(number) == (b"" if number in replies.errors else message.tobytes()[::-1])


@WAYS
def test_a_time_limit_fails_what_has_no_answer(device: DeviceUnderTest, exchange: Exchange) -> None:
    with Controller(device.function, DriverOptions(hsm_queues=1)) as controller:
        free = controller.free_bytes
        slow = rows([b"slow%d" % number for number in range(5)])
        replies = controller.exchange_many(slow, ControlKind.NONE, None, 64, timeout_s=0.05)
        assert sorted(replies.errors) == [0, 1, 2, 3, 4]
        assert all(isinstance(error, CommandTimeoutError) for error in replies.errors.values())
        assert controller.free_bytes < free, "the device may still write there"
        device.module.gate.set()
        assert not exchange(controller, numbered(40)).errors
        until(lambda: controller.hsm_queues[0].reap() or controller.free_bytes == free, "the memory of all parts")


def test_a_loop_goes_on_meanwhile_and_may_be_cancelled(device: DeviceUnderTest) -> None:
    async def main(controller: Controller) -> None:
        slow = asyncio.ensure_future(
            controller.exchange_many_async(numbered(100, b"slow"), ControlKind.NONE, None, 64, timeout_s=HANG_S)
        )
        await eventually(lambda: device.module.started.acquire(blocking=False))
        other = asyncio.ensure_future(
            controller.exchange_many_async(numbered(100), ControlKind.NONE, None, 64, timeout_s=HANG_S)
        )
        await one_round()
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        device.module.gate.set()
        assert not (await other).errors

    with Controller(device.function, DriverOptions(hsm_queues=1)) as controller:
        free = controller.free_bytes
        run(main(controller))
        until(lambda: controller.hsm_queues[0].reap() or controller.free_bytes == free, "the memory of all parts")


def test_no_array_of_messages(device: DeviceUnderTest) -> None:
    with Controller(device.function) as controller:

        def refused(error: type[Exception], match: str, messages: object, room: int = 64) -> None:
            with pytest.raises(error, match=match):
                controller.exchange_many(messages, ControlKind.NONE, None, room)  # type: ignore[arg-type]
            with pytest.raises(error, match=match):
                asyncio.run(controller.exchange_many_async(messages, ControlKind.NONE, None, room))  # type: ignore[arg-type]

        refused(ArgumentTypeError, "an array of bytes", b"abc")
        refused(ArgumentTypeError, "an array of bytes", np.zeros((3, 4)))
        refused(ArgumentError, r"shape \(4,\)", np.zeros(4, np.uint8))
        refused(ArgumentError, r"shape \(4, 4097\)", np.zeros((4, 4097), np.uint8))
        refused(ArgumentError, "response_bytes: 0, 1 to 4096", np.zeros((4, 4), np.uint8), 0)
