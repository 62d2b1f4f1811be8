# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Coroutines over real devices: what the event loop takes by itself, what ends an await, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ihsm import aio
from ihsm.driver import Controller, DriverOptions, FastPathSession, completion
from ihsm.driver.aes_commands import draw_iv
from ihsm.errors import (
    AesCommandError,
    ArgumentError,
    ArgumentTypeError,
    CommandTimeoutError,
    ControllerLostError,
    HsmCommandError,
    QueueClosedError,
    ResourceError,
)
from ihsm_abi.hsm_queue import MAX_REQUEST_BYTES, ControlKind
from support.coroutines import Loop, eventually, exchange, fetched, run, started
from support.descriptors import open_descriptors
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


@pytest.fixture
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has been quiet is looked after at once."""
    monkeypatch.setattr(completion, "HEALTH_INTERVAL_S", 0.02)


def test_results_and_errors_are_those_of_a_waiting_caller(controller: Controller) -> None:
    async def main() -> None:
        queue, aes = controller.hsm_queues[0], controller.aes_queues[0]
        submission = queue.submit_message(b"abc", ControlKind.IN_SESSION, 7, timeout_s=HANG_S)
        reply = await aio.completed(submission)
        assert reply == submission.result() == await aio.completed(submission)
        assert (reply.message, reply.session_id) == (b"cba", 7)
        assert (await controller.exchange_async(b"ab", ControlKind.IN_SESSION, 3)).session_id == 3
        with pytest.raises(HsmCommandError, match="INTERNAL_ERROR"):
            await exchange(controller, bytes(MAX_REQUEST_BYTES + 1))
        unchecked = await aio.exchange(controller, bytes(MAX_REQUEST_BYTES + 1), ControlKind.NONE, None)
        assert unchecked.sc
        with pytest.raises(AesCommandError, match="KEY_NOT_OWNED"):
            await aio.completed(
                aes.submit_gcm(FastPathSession(1, 0), 5, b"text", decrypt=False, iv=draw_iv(), timeout_s=HANG_S)
            )

    run(main())


def test_wrong_arguments_come_to_who_awaits(controller: Controller) -> None:
    async def main() -> None:
        queue = controller.hsm_queues[0]
        with pytest.raises(ArgumentError, match="not a number"):
            await exchange(controller, b"ab", float("nan"))
        with pytest.raises(ArgumentTypeError, match="message"):
            await exchange(controller, 7)  # type: ignore[arg-type]
        with pytest.raises(ArgumentTypeError, match="queue"):
            await aio.performed(7, queue.submit_message, timeout_s=HANG_S)  # type: ignore[arg-type]
        assert queue.outstanding == 0

    run(main())


def test_the_loop_goes_on_while_the_device_works(device: DeviceUnderTest, controller: Controller) -> None:
    """Nobody opens the gate but another task."""

    async def main() -> bytes:
        slow = started(exchange(controller, b"slow"))
        await fetched(device.module)
        assert (await exchange(controller, b"ab")).message == b"ba"
        assert not slow.done()
        device.module.gate.set()
        return (await slow).message

    assert run(main()) == b"wols"


def test_one_reader_serves_one_await_after_the_other(device: DeviceUnderTest) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        before = loop.added
        for number in range(50):
            await exchange(controller, b"%d" % number)
        return loop.added - before

    with Controller(device.function) as controller:
        assert run(main()) <= len({queue.line for queue in controller.hsm_queues})


def test_time_limits(device: DeviceUnderTest, controller: Controller) -> None:
    queue = controller.hsm_queues[0]

    async def main() -> None:
        slow = queue.submit_message(b"slow", ControlKind.NONE, None, timeout_s=0.01)
        with pytest.raises(CommandTimeoutError, match="1 of 1 commands not completed in time"):
            await aio.completed(slow)
        assert queue.outstanding == 1, "the command goes on"
        await eventually(lambda: not queue.line.watches)
        others = [started(exchange(controller, b"slow%d" % n)) for n in range(2)]
        await eventually(lambda: not queue.has_room)
        with pytest.raises(CommandTimeoutError, match="no room in the ring of 4 entries in time"):
            await exchange(controller, b"ab", 0.01)
        device.module.gate.set()
        await asyncio.gather(*others)
        assert (await exchange(controller, b"ab")).message == b"ba"
        await eventually(lambda: queue.reap() or not queue.outstanding)  # it may complete after those that came later
        assert slow.outcome is None, "what comes too late is not collected"
        assert queue.outstanding == 0

    run(main())


def test_a_cancelled_await_leaves_the_command_to_itself(device: DeviceUnderTest, controller: Controller) -> None:
    queue = controller.hsm_queues[0]

    async def main() -> None:
        task = started(exchange(controller, b"slow"))
        await fetched(device.module)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert queue.outstanding == 1
        device.module.gate.set()
        await eventually(lambda: queue.outstanding == 0)

    run(main())


def test_memory_of_a_cancelled_command_comes_back(device: DeviceUnderTest, controller: Controller) -> None:
    """It is the device's until the completion, which nobody awaits any more."""

    async def main() -> None:
        queue = controller.aes_queues[0]
        free = controller.arena.free_bytes
        iv = draw_iv()
        submission = queue.submit_gcm(FastPathSession(1, 0), 5, bytes(1 << 16), decrypt=False, iv=iv, timeout_s=HANG_S)
        task = started(aio.completed(submission))
        await one_round()
        task.cancel()
        await eventually(lambda: controller.arena.free_bytes == free)

    run(main())


def test_a_loop_closed_over_outstanding_commands(device: DeviceUnderTest, controller: Controller) -> None:
    queue = controller.hsm_queues[0]
    before = open_descriptors()

    async def main() -> None:
        for number in range(5):  # two of them wait for room
            started(exchange(controller, b"slow%d" % number))
        await fetched(device.module)

    for _ in range(2):
        asyncio.run(main())
        device.module.gate.set()
        until(lambda: controller.exchange(b"ab", ControlKind.NONE, None).message == b"ba", "an answer")
        until(lambda: queue.line.poll() is not None and queue.outstanding == 0, "the completions of what nobody awaits")
        assert not queue.line.watches
        assert open_descriptors() == before
        device.module.gate.clear()


def test_the_watch_of_a_closed_loop_gives_way_to_the_next(device: DeviceUnderTest, controller: Controller) -> None:
    line = controller.hsm_queues[0].line
    watches: list[int] = []

    async def main() -> None:
        started(exchange(controller, b"slow"))
        await fetched(device.module)
        watches.append(len(line.watches))

    for _ in range(2):
        asyncio.run(main())
    device.module.gate.set()
    assert watches == [1, 1]


def test_loops_and_waiting_callers_share_a_controller(device: DeviceUnderTest, controller: Controller) -> None:
    wrong: list[bytes] = []

    async def ask(name: int, number: int) -> None:
        message = b"%d/%d" % (name, number)
        if (await exchange(controller, message)).message != message[::-1]:
            wrong.append(message)

    async def main(name: int) -> None:
        await asyncio.gather(*(ask(name, number) for number in range(100)))

    def wait(name: int) -> None:
        for number in range(100):
            message = b"%d/%d" % (name, number)
            if controller.exchange(message, ControlKind.NONE, None, timeout_s=HANG_S).message != message[::-1]:
                wrong.append(message)

    def future(name: int) -> None:
        messages = [b"%d/%d" % (name, number) for number in range(100)]
        futures = [controller.submit(message, ControlKind.NONE, None, timeout_s=HANG_S) for message in messages]
        wrong.extend(m for m, f in zip(messages, futures, strict=True) if f.result(HANG_S).message != m[::-1])

    ends: list[Callable[[int], Any]] = [lambda name: asyncio.run(main(name))] * 3 + [wait] * 2 + [future]
    done: list[int] = []
    threads = [
        threading.Thread(target=lambda end=end, name=name: (end(name), done.append(name)))  # type: ignore[misc]
        for name, end in enumerate(ends)
    ]
    for thread in threads:
        thread.start()
    ended(*threads)
    assert sorted(done) == list(range(len(ends)))
    assert not wrong
    assert not controller.hsm_queues[0].line.watches


def test_a_reset_ends_awaits(device: DeviceUnderTest, controller: Controller) -> None:
    async def main() -> None:
        tasks = [started(exchange(controller, b"slow%d" % number)) for number in range(3)]
        await fetched(device.module)
        resetting = threading.Thread(target=controller.reset)
        resetting.start()
        for task in tasks:
            with pytest.raises(QueueClosedError, match="the controller was reset"):
                await task
        await eventually(lambda: not resetting.is_alive())
        device.module.gate.set()
        assert (await exchange(controller, b"ab")).message == b"ba"

    run(main())


@pytest.mark.parametrize("where", ["in the loop", "in a thread"])
def test_closing_ends_awaits_and_leaves_descriptors_alone(
    device: DeviceUnderTest, options: DriverOptions, where: str
) -> None:
    """Whoever gets the numbers of the closed eventfds next can watch them, and goes on doing so."""

    async def main() -> None:
        tasks = [started(exchange(controller, b"slow%d" % number)) for number in range(5)]
        await fetched(device.module)
        device.function.reset()  # so that closing does not wait for them
        if where == "in a thread":
            closing = threading.Thread(target=controller.close)
            closing.start()
            ended(closing)  # and the loop has not had a chance to notice
        else:
            controller.close()
        events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(40)]
        loop = asyncio.get_running_loop()
        seen: set[int] = set()
        for event in events:
            loop.add_reader(event, seen.add, event)
        for task in tasks:
            with pytest.raises(QueueClosedError, match="closed"):
                await task
        assert isinstance(loop, Loop)
        await eventually(lambda: loop.readers == loop.own | set(events))
        for event in events:
            os.eventfd_write(event, 1)
        await eventually(lambda: seen == set(events))
        for event in events:
            loop.remove_reader(event)
            os.close(event)
        with pytest.raises(QueueClosedError):
            await exchange(controller, b"ab")

    controller = Controller(device.function, options)
    with contextlib.closing(controller):
        run(main())


@pytest.mark.usefixtures("impatient")
def test_a_controller_lost_to_others_is_noticed(device: DeviceUnderTest, controller: Controller) -> None:
    async def main() -> None:
        device.function.reset()
        outcomes = await asyncio.gather(
            *(exchange(controller, b"%d" % number) for number in range(5)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [ControllerLostError] * 5, "those without room, too"
        controller.reset()
        assert (await exchange(controller, b"ab")).message == b"ba"

    run(main())


def test_a_synchronous_call_in_the_loop_ends_awaits(device: DeviceUnderTest, controller: Controller) -> None:
    async def main() -> bytes:
        task = started(exchange(controller, b"ab"))
        await one_round()
        for _ in range(10):
            assert controller.exchange(b"cd", ControlKind.NONE, None).message == b"dc"
        return (await task).message

    assert run(main()) == b"ba"


def test_a_leader_that_goes_leaves_the_line_to_the_loop(device: DeviceUnderTest, controller: Controller) -> None:
    """A thread leads while the loop begins to await, and has its own answer first."""
    queue = controller.hsm_queues[0]
    first = threading.Event()
    slow = queue.submit_message(b"slow", ControlKind.NONE, None, timeout_s=HANG_S)
    line = queue.line
    thread = threading.Thread(target=line.wait, args=(first.is_set, queue, HANG_S))
    thread.start()
    until(line.leader.locked, "a thread that leads")

    async def main() -> bytes:
        task = started(aio.completed(slow))
        await fetched(device.module)
        assert (await exchange(controller, b"ab")).message == b"ba", "the leader took it for us"
        first.set()
        line.kick()
        await eventually(lambda: not thread.is_alive())
        device.module.gate.set()
        return (await task).message

    assert run(main()) == b"wols"


def test_a_leader_that_has_just_gone_is_not_waited_for(controller: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there when the loop looked, and is gone before the loop asks to be told."""
    queue = controller.hsm_queues[0]
    line = queue.line
    poll = line.poll
    looks: list[None] = []

    def led(event: int | None = None) -> int | None:
        looks.append(None)
        if len(looks) > 1:
            return poll(event)
        if event is not None:
            os.eventfd_read(event)
        return None

    async def main() -> bytes:
        submission = queue.submit_message(b"ab", ControlKind.NONE, None, timeout_s=HANG_S)
        until(queue._cq.ready, "a completion")
        if line.event is not None:
            assert select.select([line.event], [], [], HANG_S)[0]
        return (await aio.completed(submission)).message

    monkeypatch.setattr(line, "poll", led)
    assert run(main()) == b"ba"
    assert len(looks) > 1


def test_too_few_descriptors(device: DeviceUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is under way, and its answer can be had later."""

    def none_left(fd: int) -> int:
        raise OSError(24, "Too many open files")

    async def main() -> None:
        submission = controller.hsm_queues[0].submit_message(b"slow", ControlKind.NONE, None, timeout_s=HANG_S)
        with monkeypatch.context() as patch:
            patch.setattr(os, "dup", none_left)
            with pytest.raises(ResourceError, match="Too many open files"):
                await aio.completed(submission)
        device.module.gate.set()
        assert (await aio.completed(submission)).message == b"wols"

    with Controller(device.function) as controller:
        run(main())
