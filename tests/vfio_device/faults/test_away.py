# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A function that is gone for a while, and vectors that are raised without end."""

from __future__ import annotations

import os

import pytest

from ihsm_abi.fault_actions import FaultAction, FaultError
from ihsm_abi.faults import Fault, When
from ihsm_abi.pci import Bar
from ihsm_abi.registers import GONE, Register
from support.devices import DeviceUnderTest
from support.interrupts import Interrupts
from support.polled import PolledDriver
from support.shown import LONG_MS, Sender, Shown
from support.waiting import stays, until


def gone(device: DeviceUnderTest) -> bool:
    return device.function.read_bar(Bar.REGISTERS, Register.CSTS, 4) == GONE


def test_it_goes_and_comes(shown: Shown, ready: PolledDriver, device: DeviceUnderTest) -> None:
    fault = shown.show(FaultAction.REMOVE_FUNCTION)
    shown.until_hit(fault)
    assert gone(device)
    assert device.function.read_bar(Bar.MSIX, 0, 4) == GONE
    assert device.device.engine.queue(1) is None, "its queues have ended"
    device.function.write_bar(Bar.REGISTERS, Register.AQA, 4, 0xF000F)
    device.function.write_bar(Bar.MSIX, 0, 4, 1)
    ready.rings[1].ring()
    shown.faults.clear(fault)
    until(lambda: not gone(device), "its return")
    for register in Register:
        assert device.function.read_bar(Bar.REGISTERS, register, register.width) == register.reset
    assert device.function.read_bar(Bar.MSIX, 0, 4) == 0
    ready.enable()
    ready.create_pair(1)
    Sender(ready, 1).run()


def test_it_goes_by_the_clock(shown: Shown, device: DeviceUnderTest) -> None:
    shown.show(FaultAction.REMOVE_FUNCTION, when=When(after_ms=20))
    until(lambda: gone(device), "its end")


def test_it_comes_by_the_clock(shown: Shown, device: DeviceUnderTest) -> None:
    """Where the device's thread is slow it may never go, for its time is over before it begins."""
    fault = shown.show(FaultAction.REMOVE_FUNCTION, when=When(for_ms=100))
    until(lambda: not shown.faults._stands(fault), "the end of its time")
    until(lambda: not gone(device), "its return")
    assert shown.faults.hits(fault) in (0, 1)


def test_what_is_put_off_never_comes(shown: Shown, ready: PolledDriver, interrupts: Interrupts) -> None:
    """No completion and no interrupt of a function that is gone, a storm neither."""
    sender = Sender(ready, 1)
    late = shown.show(FaultAction.DELAY_COMPLETION, when=When(count=1), ms=20)
    sender.send()
    shown.until_hit(late)
    fault = shown.show(FaultAction.REMOVE_FUNCTION)
    shown.until_hit(fault)
    storm = shown.show(FaultAction.STORM_INTERRUPT, vector=3, us=100)
    interrupts.forget(3)
    until(lambda: shown.faults.hits(storm) > 50, "a storm that nobody hears")
    assert not any(_is_set(event) for event in interrupts.events)


def _is_set(event: int) -> bool:
    try:
        return os.eventfd_read(event) > 0
    except BlockingIOError:
        return False


def test_a_client_that_comes_meanwhile_and_resets_it(shown: Shown, device: DeviceUnderTest) -> None:
    shown.until_hit(shown.show(FaultAction.REMOVE_FUNCTION))
    device.function.reset()
    assert gone(device)


def test_two_of_them(shown: Shown, device: DeviceUnderTest) -> None:
    """It is there again when both have ended."""
    first, second = (shown.show(FaultAction.REMOVE_FUNCTION) for _ in range(2))
    shown.until_hit(first)
    shown.until_hit(second)
    shown.faults.clear(first)
    assert stays(lambda: gone(device))
    shown.faults.clear(second)
    until(lambda: not gone(device), "its return")


@pytest.mark.parametrize("vector", [0, 3, 20, 31])
def test_a_storm(shown: Shown, interrupts: Interrupts, vector: int) -> None:
    fault = shown.show(FaultAction.STORM_INTERRUPT, when=When(count=100), vector=vector, us=10)
    shown.until_hit(fault, 100)
    assert interrupts.arrives(vector)
    interrupts.forget(vector)
    assert interrupts.quiet()
    (standing,) = shown.faults.list()
    assert (standing.hits, standing.left) == (100, 0)


def test_a_storm_ends_with_its_fault(shown: Shown, interrupts: Interrupts) -> None:
    fault = shown.show(FaultAction.STORM_INTERRUPT, vector=3, us=10)
    until(lambda: shown.faults.hits(fault) > 100, "a storm")
    shown.faults.clear(fault)
    assert interrupts.arrives(3)
    until(lambda: interrupts.quiet([3]) or interrupts.arrives(3) is None, "silence")


def test_a_storm_later(shown: Shown) -> None:
    fault = shown.show(FaultAction.STORM_INTERRUPT, when=When(after_ms=LONG_MS), vector=3, us=10)
    assert shown.stays_at(fault, 0)


@pytest.mark.parametrize(
    ("action", "parameters"),
    [
        (FaultAction.WRONG_BAR_SIZE, {"bar": "msix", "size": 0}),
        (FaultAction.WRONG_VECTORS, {"vectors": 1}),
        (FaultAction.WRONG_IDENTIFY, {"field": "vid", "value": 1}),
        (FaultAction.WRONG_CAP_TO, {"to": 1}),
    ],
)
def test_what_a_client_asks_once_cannot_change_later(
    shown: Shown, action: FaultAction, parameters: dict[str, int | str]
) -> None:
    with pytest.raises(FaultError, match="from the start alone"):
        shown.faults.add(Fault(action, parameters=parameters))
    assert shown.faults.list() == []
