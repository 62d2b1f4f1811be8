# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The states of a controller: what the device was told decides what its end takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ihsm.driver import Controller, ControllerState, DriverOptions
from ihsm.driver.admin_queue import AdminQueue
from ihsm.errors import AdminCommandError, ControllerTimeoutError, IhsmError, UnsupportedDeviceError
from ihsm_abi.admin import AdminOpcode
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Cc, Register
from support.devices import DeviceUnderTest, open_device


@pytest.fixture
def device(tmp_path: Path) -> Iterator[DeviceUnderTest]:
    with open_device("vfio-user", tmp_path) as device:
        yield device


@pytest.fixture
def written(device: DeviceUnderTest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Values written to CC so far."""
    values: list[int] = []
    write = device.function.write_bar

    def watch(bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        if (bar, offset) == (Bar.REGISTERS, Register.CC):
            values.append(value)
        write(bar, offset, width, value, posted=posted)

    monkeypatch.setattr(device.function, "write_bar", watch)
    return values


def test_a_life(device: DeviceUnderTest, written: list[int]) -> None:
    controller = Controller(device.function)
    assert controller.state is ControllerState.ENABLED
    controller.reset()
    assert controller.state is ControllerState.ENABLED
    controller.close()
    assert controller.state is ControllerState.CLOSED
    ends = len(written)
    controller.close()
    assert len(written) == ends
    assert [Cc(value).en for value in written] == [1, 1, 0, 1, 1, 0]


def test_a_function_that_is_refused_is_not_disabled(device: DeviceUnderTest, written: list[int]) -> None:
    """It may be somebody else's: not a device of ours, or one without the interrupts asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(device.function), "vectors", 3)
        with pytest.raises(UnsupportedDeviceError, match="3 MSI-X vectors"):
            Controller(device.function)
    assert written == []


@pytest.mark.parametrize("command", ["identify", "queue_count", "create_cq", "create_sq"])
def test_bring_up_that_fails_leaves_the_device_disabled(
    device: DeviceUnderTest, written: list[int], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    def refused(*arguments: object) -> None:
        raise AdminCommandError(AdminOpcode.IDENTIFY.name, 1, command)

    monkeypatch.setattr(AdminQueue, command, refused)
    with pytest.raises(AdminCommandError, match=command):
        Controller(device.function, DriverOptions(interrupts=False))
    assert not Cc(written[-1]).en


def test_a_reset_that_fails_after_the_disable_needs_no_other_one(
    device: DeviceUnderTest, written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Controller(device.function)

    def takes_nothing(register: Register, value: int) -> None:
        raise IhsmError("the device takes no registers")

    disable = controller.registers.disable

    def disable_and_break() -> None:
        disable()
        monkeypatch.setattr(controller.registers, "write", takes_nothing)

    monkeypatch.setattr(controller.registers, "disable", disable_and_break)
    with pytest.raises(IhsmError, match="takes no registers"):
        controller.reset()
    assert controller.state is ControllerState.DISABLED
    before = len(written)
    controller.close()
    assert len(written) == before


def test_a_reset_that_never_gets_ready_is_disabled_at_the_end(
    device: DeviceUnderTest, written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Controller(device.function)
    wait_ready = controller.registers.wait_ready

    def impatient(target: int) -> None:
        if target:
            raise ControllerTimeoutError("never ready")
        wait_ready(target)

    monkeypatch.setattr(controller.registers, "wait_ready", impatient)
    with pytest.raises(ControllerTimeoutError):
        controller.reset()
    assert controller.state is ControllerState.ENABLED
    controller.close()
    assert not Cc(written[-1]).en


def test_another_controller_takes_over_what_the_last_one_left_enabled(device: DeviceUnderTest) -> None:
    first = Controller(device.function)
    with Controller(device.function) as second:
        assert second.exchange(b"ab", ControlKind.NONE, None).message == b"ba"
    assert first.state is ControllerState.ENABLED
    first.close()
