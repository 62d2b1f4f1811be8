# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""CFS, RDY, registers of a device that seems gone, and numbers of queues (spec 01 §2.2, §4, §6.5, §8.4)."""

from __future__ import annotations

import pytest

from ihsm_abi.admin import AdminOpcode, Feature, QueueCounts
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import Match, When
from ihsm_abi.registers import GONE, NSSR_MAGIC, Aqa, Cc, Csts, Register
from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from support.devices import DeviceUnderTest
from support.polled import PolledDriver
from support.shown import LONG_MS, Sender, Shown
from support.waiting import stays, until

ONCE = When(count=1)
READY, FAILED, OFF = Csts.of(rdy=1), Csts.of(rdy=1, cfs=1), Csts(0)


def begin_enable(driver: PolledDriver) -> None:
    """Set EN without waiting for RDY."""
    driver.write(Register.AQA, Aqa.of(asqs=15, acqs=15))
    driver.write(Register.ASQ, driver.page.iova, 8)
    driver.write(Register.ACQ, driver.answer_page.iova, 8)
    driver.write(Register.CC, Cc.of(en=1))


def clear_enable(driver: PolledDriver) -> None:
    driver.write(Register.CC, Cc(driver.read(Register.CC)).replace(en=0))


# -- CFS


def test_cfs_is_found_and_stays_until_disable(shown: Shown, ready: PolledDriver) -> None:
    fault = shown.show(FaultAction.SET_CFS, when=ONCE)
    assert [ready.csts, ready.csts, ready.csts] == [FAILED] * 3
    assert shown.faults.hits(fault) == 1
    ready.disable()
    ready.enable()
    assert ready.csts == READY


def test_cfs_comes_with_the_nth_read_of_csts(shown: Shown, ready: PolledDriver) -> None:
    shown.show(FaultAction.SET_CFS, when=When(nth=3, count=1))
    assert ready.read(Register.VS) != 0
    assert [ready.csts for _ in range(4)] == [READY, READY, FAILED, FAILED]
    ready.nssr()
    assert ready.csts == OFF


def test_cfs_again_and_again(shown: Shown, driver: PolledDriver) -> None:
    """Without a count no enable ends well: CFS is there with RDY."""
    fault = shown.show(FaultAction.SET_CFS)
    for number in range(3):
        assert driver.csts == OFF, "which is not of a ready controller"
        begin_enable(driver)
        assert driver.csts == FAILED
        shown.until_hit(fault, number + 1)
        clear_enable(driver)


def test_a_controller_with_cfs_goes_on_with_its_commands(shown: Shown, sender: Sender) -> None:
    shown.show(FaultAction.SET_CFS, when=ONCE)
    assert sender.driver.csts == FAILED
    sender.run()


def test_the_status_of_the_control_socket_is_no_read(
    shown: Shown, ready: PolledDriver, device: DeviceUnderTest
) -> None:
    fault = shown.show(FaultAction.SET_CFS)
    assert device.device.status()["registers"]["CSTS"] == READY
    assert shown.faults.hits(fault) == 0


# -- RDY


def test_a_controller_that_never_becomes_ready(shown: Shown, driver: PolledDriver, device: DeviceUnderTest) -> None:
    fault = shown.show(FaultAction.NEVER_READY, when=ONCE)
    begin_enable(driver)
    assert stays(lambda: driver.csts == OFF)
    assert device.device.engine.queue(0) is None
    assert shown.faults.hits(fault) == 1
    driver.write(Register.CC, driver.read(Register.CC))
    assert driver.csts == OFF, "EN was 1 already"
    clear_enable(driver)
    driver.enable()
    Sender(driver, 0).run()


def test_a_controller_becomes_ready_when_the_fault_ends(shown: Shown, driver: PolledDriver) -> None:
    fault = shown.show(FaultAction.NEVER_READY)
    begin_enable(driver)
    assert driver.csts == OFF
    shown.faults.clear(fault)
    assert driver.csts == READY


def test_a_controller_does_not_become_ready_by_a_fault_that_ends_too_late(shown: Shown, driver: PolledDriver) -> None:
    shown.show(FaultAction.NEVER_READY)
    begin_enable(driver)
    clear_enable(driver)
    shown.faults.clear()
    assert driver.csts == OFF


def test_a_controller_that_is_ready_after_so_many_reads(shown: Shown, driver: PolledDriver) -> None:
    shown.show(FaultAction.LATE_READY, when=ONCE, reads=3)
    begin_enable(driver)
    assert driver.read(Register.CC) == Cc.of(en=1)
    assert [driver.csts for _ in range(5)] == [OFF, OFF, OFF, READY, READY]


def test_a_controller_that_is_ready_after_some_time(shown: Shown, driver: PolledDriver) -> None:
    fault = shown.show(FaultAction.LATE_READY, ms=LONG_MS)
    begin_enable(driver)
    assert stays(lambda: driver.csts == OFF)
    shown.faults.clear(fault)
    assert driver.csts == READY
    clear_enable(driver)
    shown.show(FaultAction.LATE_READY, ms=5)
    begin_enable(driver)
    until(lambda: driver.csts == READY, "RDY")


def test_an_enable_that_is_refused_is_no_event(shown: Shown, driver: PolledDriver) -> None:
    fault = shown.show(FaultAction.NEVER_READY)
    driver.write(Register.CC, Cc.of(en=1))
    assert driver.csts == Csts.of(cfs=1)
    assert shown.faults.hits(fault) == 0


# -- disable and NSSR


def test_a_disable_that_never_ends(shown: Shown, ready: PolledDriver, device: DeviceUnderTest) -> None:
    """Its queues have ended, so that the driver may free their memory."""
    fault = shown.show(FaultAction.NEVER_DISABLED)
    for number in (1, 2, 3):
        clear_enable(ready)
        assert stays(lambda: ready.csts == READY)
        assert shown.faults.hits(fault) == number
    assert device.device.engine.queue(0) is None
    assert device.module.resets == ["disable"]
    shown.faults.clear(fault)
    assert ready.csts == OFF
    ready.enable()
    Sender(ready, 0).run()


def test_a_second_disable_ends(shown: Shown, ready: PolledDriver) -> None:
    shown.show(FaultAction.NEVER_DISABLED, when=ONCE)
    clear_enable(ready)
    assert ready.csts == READY
    clear_enable(ready)
    assert ready.csts == OFF


def test_an_enable_meanwhile_is_done_when_the_fault_ends(shown: Shown, ready: PolledDriver) -> None:
    fault = shown.show(FaultAction.NEVER_DISABLED)
    clear_enable(ready)
    begin_enable(ready)
    assert ready.csts == READY
    shown.faults.clear(fault)
    assert ready.csts == READY
    clear_enable(ready)
    assert ready.csts == OFF


def test_an_nssr_that_never_ends(shown: Shown, ready: PolledDriver, device: DeviceUnderTest) -> None:
    fault = shown.show(FaultAction.NEVER_RESET, when=ONCE)
    ready.nssr()
    assert stays(lambda: ready.csts == READY)
    assert device.module.resets == ["nssr"]
    assert device.device.engine.queue(0) is None
    assert shown.faults.hits(fault) == 1
    ready.disable()
    ready.enable()
    Sender(ready, 0).run()


def test_an_nssr_ends_with_the_fault(shown: Shown, ready: PolledDriver, device: DeviceUnderTest) -> None:
    """EN is still 1, but nobody has written it: rings of before may be anything by now."""
    fault = shown.show(FaultAction.NEVER_RESET)
    ready.nssr()
    assert ready.csts == READY
    shown.faults.clear(fault)
    assert ready.csts == OFF
    assert Cc(ready.read(Register.CC)).en
    assert device.device.engine.queue(0) is None
    ready.disable()
    ready.enable()
    Sender(ready, 0).run()


def test_an_enable_after_an_nssr_is_done_when_the_fault_ends(shown: Shown, ready: PolledDriver) -> None:
    fault = shown.show(FaultAction.NEVER_RESET)
    ready.nssr()
    begin_enable(ready)
    shown.faults.clear(fault)
    assert ready.csts == READY


def test_a_second_nssr_ends(shown: Shown, ready: PolledDriver) -> None:
    shown.show(FaultAction.NEVER_RESET, when=ONCE)
    ready.nssr()
    ready.nssr()
    assert ready.csts == OFF


@pytest.mark.parametrize("action", [FaultAction.NEVER_DISABLED, FaultAction.NEVER_RESET, FaultAction.NEVER_READY])
def test_a_function_level_reset_ends_whatever_lingers(
    shown: Shown, ready: PolledDriver, device: DeviceUnderTest, action: FaultAction
) -> None:
    if action is FaultAction.NEVER_READY:
        ready.disable()
    shown.show(action)
    if action is FaultAction.NEVER_RESET:
        ready.nssr()
    elif action is FaultAction.NEVER_DISABLED:
        clear_enable(ready)
    else:
        begin_enable(ready)
    device.level_reset()
    until(lambda: ready.csts == OFF, "the reset")
    shown.faults.clear()
    assert ready.csts == OFF
    ready.enable()


# -- gone


def test_a_device_that_seems_gone(shown: Shown, ready: PolledDriver) -> None:
    """Writes do nothing, doorbells neither; what was there is there again."""
    fault = shown.show(FaultAction.ALL_ONES)
    sender = Sender(ready, 1)
    assert ready.csts == ready.read(Register.CC) == ready.read(Register.VS) == GONE
    assert ready.read(Register.CAP, 8) == GONE << 32 | GONE
    ready.write(Register.CC, 0)
    ready.write(Register.NSSR, NSSR_MAGIC)
    sender.send()
    assert sender.unanswered
    assert shown.faults.hits(fault) == 4
    shown.faults.clear(fault)
    assert ready.csts == READY
    assert Cc(ready.read(Register.CC)).en
    first = sender.send()
    assert sender.ring.outstanding >= {first}
    sender.ring.wait()
    sender.ring.wait()


def test_a_device_is_back_after_so_many_reads(shown: Shown, ready: PolledDriver) -> None:
    shown.show(FaultAction.ALL_ONES, when=When(nth=2, count=2))
    assert [ready.csts for _ in range(4)] == [READY, GONE, GONE, READY]
    for queue_id in (0, 1, FIRST_AES_QUEUE_ID):
        Sender(ready, queue_id).run()


def test_one_register_is_ones(shown: Shown, ready: PolledDriver) -> None:
    shown.show(FaultAction.ALL_ONES, match=Match(register=Register.CC))
    assert ready.read(Register.CC) == GONE
    assert ready.csts == READY
    ready.write(Register.CC, 0)
    ready.write(Register.AQA, 0)
    assert ready.csts == READY, "a write to it does nothing"
    assert ready.read(Register.AQA) == 0, "one to another does"
    Sender(ready, 1).run()


# -- counts


@pytest.mark.parametrize("opcode", [AdminOpcode.SET_FEATURES, AdminOpcode.GET_FEATURES])
@pytest.mark.parametrize("count", [0, 1, 5, 66, 0xFFFF])
def test_other_numbers_of_queues_are_granted(
    shown: Shown, driver: PolledDriver, opcode: AdminOpcode, count: int
) -> None:
    driver.enable()
    fault = shown.show(FaultAction.GRANT_QUEUES, aes=count)
    told = (count - 1) % 0x10000
    answer = driver.run_admin(opcode, dw10=Feature.AES_QUEUE_COUNT, dw11=0x0080_0080)
    assert answer.dw0 == QueueCounts.of(sqs=told, cqs=told)
    assert shown.faults.hits(fault) == 1
    right = driver.run_admin(opcode, dw10=Feature.HSM_QUEUE_COUNT, dw11=0x0080_0080)
    assert right.dw0 == QueueCounts.of(sqs=1, cqs=1), "of the two resources"
    assert shown.faults.hits(fault) == 1


def test_none_of_either_kind_is_granted(shown: Shown, driver: PolledDriver) -> None:
    driver.enable()
    shown.show(FaultAction.GRANT_QUEUES, match=Match(opcode=AdminOpcode.SET_FEATURES), hsm=0, aes=0)
    for feature in (Feature.HSM_QUEUE_COUNT, Feature.AES_QUEUE_COUNT):
        assert driver.run_admin(AdminOpcode.SET_FEATURES, dw10=feature, dw11=0x0080_0080).dw0 == GONE
        assert driver.run_admin(AdminOpcode.GET_FEATURES, dw10=feature).dw0 != GONE
