# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Bring-up, exchange, recovery and teardown against a real device behind its socket."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ihsm import aio
from ihsm.driver import Controller, DriverOptions, FastPathSession
from ihsm.driver.hsm_queue import reply_of
from ihsm.driver.queue_pair import MAX_ENTRIES
from ihsm.errors import (
    AdminCommandError,
    AesCommandError,
    ArgumentError,
    BusError,
    CommandTimeoutError,
    ControllerFatalError,
    HsmCommandError,
    QueueClosedError,
    UnsupportedDeviceError,
)
from ihsm_abi.aes_queue import GCM_SQE, GcmError
from ihsm_abi.hsm_queue import MAX_REQUEST_BYTES, ControlKind, HsmStatus
from ihsm_abi.registers import Csts, Register
from ihsm_abi.resources import MAX_RESOURCES
from support.devices import DeviceUnderTest, open_device
from support.modules import LONG_ANSWER_BYTES
from support.waiting import HANG_S, ended, stays, together


@pytest.fixture(params=["vfio-user", "doorbell-page"])
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DeviceUnderTest]:
    with open_device(request.param, tmp_path, resources=3) as device:
        yield device


@pytest.fixture(params=["interrupts", "polled"])
def controller(request: pytest.FixtureRequest, device: DeviceUnderTest) -> Iterator[Controller]:
    with Controller(device.function, DriverOptions(interrupts=request.param == "interrupts")) as controller:
        yield controller


def test_bring_up(controller: Controller) -> None:
    assert controller.identity.vendor_id == 0x1414
    assert controller.identity.serial_number == "1122334455667788"
    assert [queue.queue_id for queue in controller.hsm_queues] == [1, 2, 3]
    assert [queue.queue_id for queue in controller.aes_queues] == list(range(256, 262))
    assert controller.gcm_workaround
    assert controller.registers.cc == 0x67460001


def test_exchange(controller: Controller) -> None:
    reply = controller.exchange(b"hello", ControlKind.IN_SESSION, 7)
    assert reply.message == b"olleh"
    assert (reply.session_id, reply.short_app_id, reply.session_closed) == (7, None, False)
    assert controller.exchange(b"x", ControlKind.NONE, None).session_id is None
    assert len(controller.exchange(b"long", ControlKind.NONE, None).message) == LONG_ANSWER_BYTES
    assert controller.flush_session(5).session_closed


def test_rings_wrap(controller: Controller) -> None:
    for number in range(3 * controller.options.hsm_entries * len(controller.hsm_queues)):
        message = number.to_bytes(4, "big")
        assert controller.exchange(message, ControlKind.NONE, None).message == message[::-1]


def test_outstanding_commands_never_keep_the_device_from_the_next_one(
    device: DeviceUnderTest, controller: Controller
) -> None:
    """However few CQ entries are known to be free, a command starts if the device could complete all of them."""
    queue = controller.hsm_queues[0]
    slow = [
        queue.submit_message(b"slow", ControlKind.NONE, None, timeout_s=HANG_S) for _ in range(queue.entries // 2 + 4)
    ]
    for number in range(3 * queue.entries):
        message = number.to_bytes(4, "big")
        assert queue.submit_message(message, ControlKind.NONE, None, timeout_s=HANG_S).result().message == message[::-1]
    device.module.gate.set()
    for submission in slow:
        assert submission.result().message == b"wols"


def test_an_error_of_the_queue_layer_is_typed(controller: Controller) -> None:
    with pytest.raises(HsmCommandError, match="INTERNAL_ERROR") as caught:
        controller.exchange(bytes(MAX_REQUEST_BYTES + 1), ControlKind.NONE, None)
    assert caught.value.sc == HsmStatus.INTERNAL_ERROR
    with pytest.raises(HsmCommandError, match="INVALID_SRC_LENGTH"):
        controller.exchange(b"", ControlKind.NONE, None)


def test_the_response_is_cut_to_its_room(controller: Controller) -> None:
    queue = controller.hsm_queues[0]
    reply = queue.submit_message(b"0123456789", ControlKind.NONE, None, timeout_s=HANG_S, response_bytes=4).result()
    assert (reply.message, reply.byte_count) == (b"9876", 10)


def test_many_outstanding_from_many_threads(controller: Controller) -> None:
    wrong: list[bytes] = []

    def use(name: int) -> None:
        for number in range(60):
            message = b"%d/%d" % (name, number)
            if controller.exchange(message, ControlKind.NONE, None).message != message[::-1]:
                wrong.append(message)

    together(6, use)
    assert not wrong


def test_more_futures_than_slots(controller: Controller) -> None:
    messages = [b"%d" % number for number in range(400)]
    futures = [controller.submit(message, ControlKind.NONE, None) for message in messages]
    assert [future.result(HANG_S).message for future in futures] == [message[::-1] for message in messages]


def test_asyncio(controller: Controller) -> None:
    async def run() -> list[bytes]:
        tasks = [aio.exchange(controller, b"%d" % number, ControlKind.NONE, None) for number in range(200)]
        return [reply.message for reply in await asyncio.gather(*tasks)]

    assert asyncio.run(run()) == [(b"%d" % number)[::-1] for number in range(200)]


def test_an_aes_command_without_keys_fails_with_its_status(controller: Controller) -> None:
    queue = controller.aes_queues[-1]
    with pytest.raises(AesCommandError, match="KEY_NOT_OWNED") as caught:
        queue.gcm_encrypt(FastPathSession(1, 0), 5, b"text", timeout_s=HANG_S)
    assert caught.value.err == GcmError.KEY_NOT_OWNED
    completions = queue.submit(np.zeros(1000, GCM_SQE), HANG_S).result()
    assert (completions["psf"] > 1).all()


def test_a_slow_command_times_out_and_its_queue_recovers(device: DeviceUnderTest, controller: Controller) -> None:
    queue = controller.hsm_queues[0]
    slow = queue.submit_message(b"slow", ControlKind.NONE, None, timeout_s=0.1)
    with pytest.raises(CommandTimeoutError):
        slow.result()
    assert device.module.started.acquire(timeout=HANG_S)
    waiting = queue.submit_message(b"slow too", ControlKind.NONE, None, timeout_s=HANG_S)
    recovery = threading.Thread(target=controller.recover_queue, args=(queue,))
    recovery.start()
    assert stays(recovery.is_alive), "DELETE_SQ waits for what has been fetched"
    device.module.gate.set()
    ended(recovery)
    assert waiting.done()
    assert queue.outstanding == 0
    for _ in range(50):
        assert queue.submit_message(b"ab", ControlKind.NONE, None, timeout_s=HANG_S).result().message == b"ba"


@pytest.mark.parametrize("subsystem", [False, True])
def test_reset_fails_what_is_outstanding_and_starts_anew(
    device: DeviceUnderTest, controller: Controller, subsystem: bool
) -> None:
    slow = controller.submit(b"slow", ControlKind.NONE, None)
    assert device.module.started.acquire(timeout=HANG_S)
    controller.reset(subsystem=subsystem)
    device.module.gate.set()
    with pytest.raises(QueueClosedError):
        slow.result(HANG_S)
    assert controller.exchange(b"again", ControlKind.NONE, None).message == b"niaga"
    assert device.module.resets[-1] == ("nssr" if subsystem else "disable")


def test_closing_lets_fetched_commands_end_and_refuses_more(device: DeviceUnderTest) -> None:
    controller = Controller(device.function)
    slow = controller.submit(b"slow", ControlKind.NONE, None)
    assert device.module.started.acquire(timeout=HANG_S), "the command has been fetched"
    closing = threading.Thread(target=controller.close)
    closing.start()
    assert stays(closing.is_alive)
    device.module.gate.set()
    ended(closing)
    controller.close()
    assert slow.result(HANG_S).message == b"wols"
    with pytest.raises(QueueClosedError):
        controller.exchange(b"x", ControlKind.NONE, None)


def test_fewer_queues_than_there_are(device: DeviceUnderTest) -> None:
    with Controller(device.function, DriverOptions(hsm_queues=1, aes_queues=0, hsm_entries=2)) as controller:
        assert (len(controller.hsm_queues), len(controller.aes_queues)) == (1, 0)
        for _ in range(5):
            controller.exchange(b"x", ControlKind.NONE, None)


def test_an_admin_command_that_fails_names_command_and_status(controller: Controller) -> None:
    with pytest.raises(AdminCommandError, match=r"ABORT: status 0x4001 \(INVALID_OPCODE\)"):
        controller.admin.execute(0x08)


def test_a_second_controller_on_the_same_function_is_brought_up_anew(tmp_path: Path) -> None:
    for _ in range(3):
        with open_device("vfio-user", tmp_path) as device, Controller(device.function) as controller:
            assert controller.exchange(b"ab", ControlKind.NONE, None).message == b"ba"


def test_a_device_that_vanishes_fails_waiting_callers(tmp_path: Path) -> None:
    opened = open_device("vfio-user", tmp_path)
    device = opened.__enter__()
    controller = Controller(device.function)
    slow = controller.hsm_queues[0].submit_message(b"slow", ControlKind.NONE, None, timeout_s=HANG_S)
    device.module.gate.set()
    closer = threading.Thread(target=lambda: opened.__exit__(None, None, None))
    closer.start()
    with contextlib.suppress(BusError):
        slow.result()
    ended(closer)
    with pytest.raises((BusError, QueueClosedError)):
        controller.exchange(b"x", ControlKind.NONE, None, timeout_s=HANG_S)
    controller.close()


def test_another_device_is_refused(device: DeviceUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.function, "read_config", lambda offset, size: bytes.fromhex("86800001")[:size])
    with pytest.raises(UnsupportedDeviceError, match="8086:0100"):
        Controller(device.function)


def test_a_fatal_controller_is_reported(device: DeviceUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    read = device.function.read_bar

    def faulty(bar: int, offset: int, width: int) -> int:
        value = read(bar, offset, width)
        return value | Csts.of(cfs=1) if (bar, offset) == (0, Register.CSTS) else value

    monkeypatch.setattr(device.function, "read_bar", faulty)
    with pytest.raises(ControllerFatalError):
        Controller(device.function)


def test_too_much_memory_is_refused(device: DeviceUnderTest) -> None:
    with pytest.raises(ArgumentError, match=r"Controller: options: .* bytes of DMA memory"):
        Controller(device.function, DriverOptions(aes_entries=MAX_ENTRIES))
    with pytest.raises(ArgumentError, match="DriverOptions: buffer_bytes: 67108865"):
        DriverOptions(buffer_bytes=(64 << 20) + 1)


@pytest.mark.parametrize("entries", [2, 3, 5, 6, 17, 256])
def test_a_queue_needs_no_more_memory_than_it_says(device: DeviceUnderTest, entries: int) -> None:
    options = DriverOptions(hsm_entries=entries, aes_entries=entries, buffer_bytes=0)
    with Controller(device.function, options) as controller:
        assert controller.exchange(b"ab", ControlKind.NONE, None).message == b"ba"
        assert controller.arena.free_bytes == 0


def test_as_many_queues_as_a_function_can_have(tmp_path: Path) -> None:
    """Their memory exceeds one arena."""
    with (
        open_device("vfio-user", tmp_path, resources=MAX_RESOURCES) as device,
        Controller(device.function) as controller,
    ):
        assert (len(controller.hsm_queues), len(controller.aes_queues)) == (MAX_RESOURCES, 2 * MAX_RESOURCES)
        for queue in controller.hsm_queues:
            assert reply_of(queue.submit_message(b"ab", ControlKind.NONE, None, timeout_s=HANG_S)).message == b"ba"
        for aes in controller.aes_queues:
            for size in (16, 5000):
                with pytest.raises(AesCommandError):
                    aes.gcm_encrypt(FastPathSession(0, 0), 1, bytes(size), timeout_s=HANG_S)
        controller.reset()
        assert controller.exchange(b"ab", ControlKind.NONE, None).message == b"ba"
