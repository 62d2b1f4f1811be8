# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The short way of a caller who waits: the same results, and what is not over in one call goes on as any command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ihsm.driver import Controller, DriverOptions, HsmQueue
from ihsm.driver.aes_commands import draw_iv
from ihsm.driver.rings import AES_RING
from ihsm.driver.submission import Submission
from ihsm.errors import (
    AesCommandError,
    CommandTimeoutError,
    HsmCommandError,
    QueueClosedError,
    QueueProtocolError,
    SessionClosedError,
)
from ihsm.fast_path import FastPathSession
from ihsm_abi.doorbells import sq_tail_offset
from ihsm_abi.hsm_queue import MAX_REQUEST_BYTES, ControlKind, HsmStatus
from ihsm_abi.pci import PAGE_BYTES, Bar
from support.devices import DeviceUnderTest, open_device
from support.ring_device import ring_device
from support.waiting import HANG_S, ended, until

pytestmark = pytest.mark.usefixtures("patient")

LONG_SPIN_US = 1_000_000
"""As long as callers may look at the ring: nothing here may have to wait for the end of that."""


@pytest.fixture(params=["interrupts", "polled"])
def options(request: pytest.FixtureRequest) -> DriverOptions:
    return DriverOptions(
        interrupts=request.param == "interrupts", spin_us=LONG_SPIN_US, hsm_queues=1, hsm_entries=4, aes_queues=1
    )


@pytest.fixture
def device(tmp_path: Path) -> Iterator[DeviceUnderTest]:
    with open_device("doorbell-page", tmp_path) as device:
        yield device


@pytest.fixture
def submissions(monkeypatch: pytest.MonkeyPatch) -> list[Submission]:
    """Those that were needed: none for what is over in one call."""
    made: list[Submission] = []
    begin = Submission.__init__

    def noted(self: Submission, *arguments: Any, **options: Any) -> None:
        made.append(self)
        begin(self, *arguments, **options)

    monkeypatch.setattr(Submission, "__init__", noted)
    return made


def send(controller: Controller, message: bytes, timeout_s: float = HANG_S) -> bytes:
    return controller.exchange(message, ControlKind.NONE, None, timeout_s=timeout_s).message


def started(target: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments)
    thread.start()
    return thread


def assert_idle(controller: Controller) -> None:
    """Nothing is lost: all rings are empty, and as good as ever."""
    for queue in (*controller.hsm_queues, *controller.aes_queues):
        assert (queue.outstanding, queue.stray_completions, queue.room) == (0, 0, queue.entries - 1)
    for number in range(10):
        assert send(controller, b"%d." % number) == b".%d" % number


def test_results_and_errors_are_those_of_any_command(controller: Controller, submissions: list[Submission]) -> None:
    for number in range(50):  # rings of four wrap, and are acknowledged
        assert send(controller, b"%03d" % number) == (b"%03d" % number)[::-1]
    reply = controller.exchange(b"hello", ControlKind.IN_SESSION, 7)
    assert (reply.message, reply.session_id, reply.byte_count) == (b"olleh", 7, 5)
    with pytest.raises(HsmCommandError) as caught:
        controller.exchange(bytes(MAX_REQUEST_BYTES + 1), ControlKind.NONE, None)
    assert caught.value.sc == HsmStatus.INTERNAL_ERROR
    queue, ids = controller.aes_queues[0], FastPathSession(1, 1)
    with pytest.raises(AesCommandError, match="KEY_NOT_OWNED"):
        queue.gcm_encrypt(ids, 1, b"text", timeout_s=HANG_S)
    free = controller.free_bytes
    with pytest.raises(AesCommandError, match="KEY_NOT_OWNED"):
        queue.gcm_encrypt(ids, 1, bytes(100_000), timeout_s=HANG_S)
    with pytest.raises(AesCommandError, match="KEY_NOT_OWNED"):
        queue.xts(ids, (1, 2), bytes(16), bytes(100_000), decrypt=False, timeout_s=HANG_S)
    ids.end()
    for size in (16, 100_000):
        with pytest.raises(SessionClosedError):
            queue.gcm_encrypt(ids, 1, bytes(size), iv=draw_iv(), timeout_s=HANG_S)
    assert controller.free_bytes == free
    if not controller.options.interrupts:  # with them others may have to be waited for, on a slow machine
        assert submissions == []
    assert_idle(controller)


def test_what_takes_longer_than_callers_look_is_waited_for(
    device: DeviceUnderTest, options: DriverOptions, submissions: list[Submission]
) -> None:
    with Controller(device.function, DriverOptions(interrupts=options.interrupts, spin_us=1)) as controller:
        submissions.clear()
        replies: list[bytes] = []
        thread = started(lambda: replies.append(send(controller, b"slow")))
        until(lambda: submissions, "the end of the first look")  # on a slow machine that finds what was done before it
        device.module.gate.set()
        ended(thread)
        assert replies == [b"wols"]
        assert len(submissions) == 1
        assert_idle(controller)


def test_a_time_limit_counts_from_the_submission(device: DeviceUnderTest, options: DriverOptions) -> None:
    with Controller(device.function, DriverOptions(interrupts=options.interrupts, hsm_queues=1)) as controller:
        with pytest.raises(CommandTimeoutError, match="1 of 1 commands not completed"):
            send(controller, b"slow", 0.05)
        assert controller.hsm_queues[0].outstanding == 1  # the device has it still
        device.module.gate.set()
        until(lambda: controller.hsm_queues[0].reap() or not controller.hsm_queues[0].outstanding, "its completion")
        assert_idle(controller)


def test_another_thread_does_not_wait_for_whoever_looks_at_the_ring(
    device: DeviceUnderTest, controller: Controller
) -> None:
    """The first one may look for longer than tests take; others submit, and get their replies, meanwhile."""
    controller.hsm_queues[0].line.spin_ns = int(10 * HANG_S * 1e9)
    replies: list[bytes] = []
    thread = started(lambda: replies.append(send(controller, b"slow")))
    assert device.module.started.acquire(timeout=HANG_S)
    for number in range(20):
        assert send(controller, b"%02d" % number) == (b"%02d" % number)[::-1]
    assert replies == []
    device.module.gate.set()
    ended(thread)
    assert replies == [b"wols"]
    assert_idle(controller)


def test_completions_of_others_are_theirs(device: DeviceUnderTest, controller: Controller) -> None:
    queue = controller.hsm_queues[0]
    for _ in range(20):
        earlier = [queue.submit_message(b"%d-" % number, ControlKind.NONE, None, timeout_s=HANG_S) for number in (1, 2)]
        future = controller.submit(b"later", ControlKind.NONE, None)
        assert send(controller, b"own") == b"nwo"
        assert [each.result().message for each in earlier] == [b"-1", b"-2"]
        assert future.result(HANG_S).message == b"retal"
    assert_idle(controller)


def test_threads_share_a_queue(controller: Controller) -> None:
    wrong: list[bytes] = []

    def use(name: bytes) -> None:
        for number in range(100):
            message = b"%s%d" % (name, number)
            reply = send(controller, message)
            if reply != message[::-1]:
                wrong.append(reply)

    threads = [started(use, b"thread %d " % name) for name in range(6)]  # more than the ring has room for
    for thread in threads:
        ended(thread)
    assert not wrong
    assert_idle(controller)


def test_a_reset_fails_whoever_looks_at_the_ring(device: DeviceUnderTest, controller: Controller) -> None:
    failures: list[str] = []

    def wait() -> None:
        try:
            send(controller, b"slow")
        except QueueClosedError as error:
            failures.append(str(error))

    thread = started(wait)
    assert device.module.started.acquire(timeout=HANG_S)
    controller.reset()
    ended(thread)
    device.module.gate.set()
    assert failures == ["the controller was reset while the command was outstanding"]
    assert_idle(controller)


def test_a_signal_that_raises_loses_nothing(device: DeviceUnderTest, controller: Controller) -> None:
    """Whoever is interrupted while looking at the ring leaves a command that completes by itself."""

    class Interruption(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interruption

    def send_signal() -> None:
        assert device.module.started.acquire(timeout=HANG_S)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        with controller.hsm_queues[0].lock:  # it is C that is interrupted: Python's handler runs when it comes back
            pass

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        helper = started(send_signal)
        with pytest.raises(Interruption):
            send(controller, b"slow")
        ended(helper)
    finally:
        signal.signal(signal.SIGUSR1, before)
    queue: HsmQueue = controller.hsm_queues[0]
    assert queue.outstanding == 1
    assert send(controller, b"ab") == b"ba"
    device.module.gate.set()
    until(lambda: queue.reap() or not queue.outstanding, "its completion")
    assert_idle(controller)


def test_an_entry_of_another_size_is_refused(controller: Controller) -> None:
    queue = controller.hsm_queues[0]
    with pytest.raises(ValueError, match="entry of 3 bytes"):
        queue.carry_out(lambda cid: b"abc", lambda cid, cqe: None, HANG_S)
    assert_idle(controller)


def test_a_head_beyond_the_ring_is_left_to_who_judges_it() -> None:
    """C takes no completion that the queue's own checks would not pass."""
    page = bytearray(PAGE_BYTES)
    with ring_device(AES_RING, 4, page=page, spin_us=LONG_SPIN_US) as device:

        def serve() -> None:
            bell = sq_tail_offset(device.queue.queue_id)
            until(lambda: page[bell], "a doorbell")
            device.bells.values[bell] = page[bell]
            device.fetch()
            device.complete(sqhd=4)

        thread = started(serve)
        entry = np.zeros(1, AES_RING.sqe)

        def build(cid: int) -> bytes:
            entry[AES_RING.cid] = cid
            return entry.tobytes()

        assert device.queue.carry_out(build, lambda cid, _: cid, HANG_S) == 2
        ended(thread)
        assert isinstance(device.queue.failure, QueueProtocolError)
        assert (device.queue.outstanding, device.queue.stray_completions) == (0, 0)


def test_an_error_that_somebody_keeps_does_not_keep_the_doorbells(
    device: DeviceUnderTest, options: DriverOptions
) -> None:
    """A driver that gives a function back to the kernel waits until its memory is mapped nowhere."""
    with Controller(device.function, options) as controller:
        page = device.function.map_bar(Bar.DOORBELLS)
        with pytest.raises(AesCommandError) as kept:
            controller.aes_queues[0].gcm_encrypt(FastPathSession(1, 1), 1, b"text", timeout_s=HANG_S)
    assert page is not None
    page.close()  # BufferError if anybody has a view of it
    assert kept.value.__traceback__ is not None
