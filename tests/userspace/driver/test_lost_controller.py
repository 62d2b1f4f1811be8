# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A controller that somebody else resets: whoever waits is told, and a reset brings it back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ihsm.driver import Controller, DriverOptions, FastPathSession, completion
from ihsm.errors import ControllerLostError, DeviceGoneError
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.pci import Bar
from ihsm_abi.registers import NSSR_MAGIC, Cc, Register
from support.devices import DeviceUnderTest, open_device
from support.waiting import HANG_S

Reset = Callable[[DeviceUnderTest], None]


def disabled(device: DeviceUnderTest) -> None:
    value = Cc(device.function.read_bar(Bar.REGISTERS, Register.CC, 4)).replace(en=0)
    device.function.write_bar(Bar.REGISTERS, Register.CC, 4, value)


def subsystem_reset(device: DeviceUnderTest) -> None:
    device.function.write_bar(Bar.REGISTERS, Register.NSSR, 4, NSSR_MAGIC)


def taken_over(device: DeviceUnderTest) -> None:
    """Reset, and enabled by another driver that has its own admin queue."""
    device.function.reset()
    other = Controller(device.function, DriverOptions(interrupts=False))
    other.registers.write(Register.CC, other.registers.cc)  # and it stays enabled


RESETS: dict[str, Reset] = {
    "function": lambda device: device.function.reset(),
    "level": lambda device: device.level_reset(),
    "disable": disabled,
    "subsystem": subsystem_reset,
    "taken over": taken_over,
}


@pytest.fixture(params=["vfio-user", "doorbell-page"])
def device(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DeviceUnderTest]:
    assert completion.HEALTH_INTERVAL_S <= 1.0  # at most half of what a caller may have to wait
    monkeypatch.setattr(completion, "HEALTH_INTERVAL_S", 0.02)
    with open_device(request.param, tmp_path) as device:
        yield device


@pytest.mark.parametrize("interrupts", [True, False], ids=["interrupts", "polled"])
@pytest.mark.parametrize("reset", RESETS)
def test_commands_fail_and_a_reset_brings_it_back(device: DeviceUnderTest, reset: str, interrupts: bool) -> None:
    with Controller(device.function, DriverOptions(interrupts=interrupts)) as controller:
        RESETS[reset](device)
        with pytest.raises(ControllerLostError, match="reset by somebody else"):
            controller.exchange(b"ab", ControlKind.NONE, None, timeout_s=HANG_S)
        with pytest.raises(ControllerLostError):
            controller.aes_queues[0].gcm_encrypt(FastPathSession(0, 0), 1, b"text", timeout_s=HANG_S)
        with pytest.raises(ControllerLostError):
            controller.admin.queue_count(0)  # type: ignore[arg-type]
        controller.reset()
        assert controller.exchange(b"ab", ControlKind.NONE, None, timeout_s=HANG_S).message == b"ba"


def test_a_future_fails_too(device: DeviceUnderTest) -> None:
    with Controller(device.function) as controller:
        device.function.reset()
        future = controller.submit(b"ab", ControlKind.NONE, None, timeout_s=HANG_S)
        assert isinstance(future.exception(HANG_S), ControllerLostError)


def test_what_was_outstanding_at_the_reset_fails(device: DeviceUnderTest) -> None:
    with Controller(device.function) as controller:
        slow = controller.hsm_queues[0].submit_message(b"slow", ControlKind.NONE, None, timeout_s=HANG_S)
        device.module.gate.set()
        device.function.reset()
        try:
            slow.result()
        except ControllerLostError:
            return
        # It was answered before the reset.
        with pytest.raises(ControllerLostError):
            controller.exchange(b"ab", ControlKind.NONE, None, timeout_s=HANG_S)


def test_whoever_waits_for_room_is_told(device: DeviceUnderTest) -> None:
    """In a ring that is full of commands which nobody carries out there will be no room any more."""
    with Controller(device.function, DriverOptions(hsm_entries=4)) as controller:
        queue = controller.hsm_queues[0]
        device.function.reset()
        for _ in range(3):
            queue.submit_message(b"ab", ControlKind.NONE, None, timeout_s=HANG_S)
        with pytest.raises(ControllerLostError):
            queue.submit_message(b"ab", ControlKind.NONE, None, timeout_s=HANG_S)


def test_a_controller_that_was_lost_leaves_the_device_alone(
    device: DeviceUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be somebody else's by now: nothing is deleted or disabled."""
    controller = Controller(device.function)
    device.function.reset()
    written: list[int] = []
    monkeypatch.setattr(device.function, "write_bar", lambda *arguments, **options: written.append(arguments[1]))
    controller.close()
    assert written == []


def test_our_own_reset_is_no_loss(device: DeviceUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look at the registers that begins before it and ends after it says nothing."""
    with Controller(device.function) as controller:
        check = controller.registers.check_health

        def slow(*expected: int) -> None:
            disable(*expected)
            check(*expected)

        def disable(*expected: int) -> None:
            monkeypatch.setattr(controller.registers, "check_health", check)
            controller.reset()
            raise ControllerLostError("as seen in the middle of the reset")

        monkeypatch.setattr(controller.registers, "check_health", slow)
        controller.hsm_queues[0].line._health()
        assert controller.exchange(b"ab", ControlKind.NONE, None, timeout_s=HANG_S).message == b"ba"


def test_a_device_that_is_gone_is_named_as_such(device: DeviceUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    with Controller(device.function) as controller:
        device.function.reset()
        read = device.function.read_bar
        gone: Callable[[int, int, int], int] = lambda bar, offset, width: (1 << (8 * width)) - 1  # noqa: E731
        monkeypatch.setattr(device.function, "read_bar", gone)
        with pytest.raises(DeviceGoneError):
            controller.exchange(b"ab", ControlKind.NONE, None, timeout_s=HANG_S)
        monkeypatch.setattr(device.function, "read_bar", read)
