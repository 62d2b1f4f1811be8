# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Registers and controller states over both hosts (spec 01 §2-§4, §14.1, §14.5, §14.8, §14.9)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm_abi.admin import AdminOpcode, AdminStatus, CreateCqDw11, QueueDw10
from ihsm_abi.pci import BAR_BYTES, Bar
from ihsm_abi.registers import NSSR_MAGIC, Aqa, Cc, Csts, Register
from ihsm_device.commands import Outcome
from support.devices import DeviceUnderTest, MappedDoorbells
from support.polled import PolledDriver, Ring, admin_sqe
from support.waiting import until


class GoneQueue:
    """What stands for the engine of a queue that is gone: it drops completions."""

    def complete_admin(self, *_: object) -> Outcome:
        return Outcome.DROPPED


@dataclass(frozen=True)
class PulledBefore:
    """A command whose queue is gone."""

    sqe: bytes
    live: bool = False
    engine: GoneQueue = field(default_factory=GoneQueue)


ENTRY_SIZES = Cc.of(en=1, cp_iosqes=6, cp_iocqes=4, fp_iosqes=7, fp_iocqes=6)


def test_reset_values(driver: PolledDriver) -> None:
    assert driver.read(Register.CAP, 8) == 0x00000030_140303FF
    assert driver.read(Register.VS) == 0x00010400
    assert driver.read(Register.FWCAP) == 3
    assert [driver.read(r) for r in (Register.CC, Register.CSTS, Register.NSSR, Register.AQA)] == [0, 0, 0, 0]
    assert [driver.read(r, 8) for r in (Register.ASQ, Register.ACQ)] == [0, 0]


@pytest.mark.parametrize("offset", [0x0C, 0x10, 0x38, 0x3C, 0x50, 0x800, BAR_BYTES - 8])
def test_reserved_offsets_read_zero_and_ignore_writes(driver: PolledDriver, offset: int) -> None:
    for width in (1, 2, 4) if offset != BAR_BYTES - 8 else (1, 2, 4, 8):
        driver.function.write_bar(Bar.REGISTERS, offset, width, (1 << 8 * width) - 1)
        assert driver.function.read_bar(Bar.REGISTERS, offset, width) == 0


def test_odd_widths_see_the_same_bytes(driver: PolledDriver) -> None:
    function = driver.function
    driver.write(Register.ASQ, 0x12345678_9ABCD000, 8)
    driver.write(Register.AQA, 0x000F000F)
    whole = b"".join(function.read_bar(Bar.REGISTERS, offset, 4).to_bytes(4, "little") for offset in range(0, 0x40, 4))
    for width in (1, 2, 8):
        pieces = [function.read_bar(Bar.REGISTERS, offset, width) for offset in range(0, 0x40, width)]
        assert b"".join(piece.to_bytes(width, "little") for piece in pieces) == whole


def test_halves_of_64_bit_registers(driver: PolledDriver) -> None:
    for register in (Register.ASQ, Register.ACQ):
        driver.function.write_bar(Bar.REGISTERS, register, 4, 0x9ABCD000)
        driver.function.write_bar(Bar.REGISTERS, register + 4, 4, 0x12345678)
        assert driver.read(register, 8) == 0x12345678_9ABCD000
        assert driver.function.read_bar(Bar.REGISTERS, register + 4, 4) == 0x12345678
    assert driver.function.read_bar(Bar.REGISTERS, 4, 4) == 0x30


def test_page_offsets_of_admin_rings_do_not_exist(driver: PolledDriver) -> None:
    driver.write(Register.ASQ, 0xFFFF_FFFF_FFFF_FFFF, 8)
    assert driver.read(Register.ASQ, 8) == 0xFFFF_FFFF_FFFF_F000
    driver.write(Register.AQA, 0xFFFF_FFFF)
    assert driver.read(Register.AQA) == 0x0FFF_0FFF


def test_parts_of_cc_change_that_part(driver: PolledDriver) -> None:
    driver.function.write_bar(Bar.REGISTERS, Register.CC + 2, 2, 0x6746)
    assert driver.read(Register.CC) == 0x67460000
    driver.function.write_bar(Bar.REGISTERS, Register.CC + 3, 1, 0)
    assert driver.read(Register.CC) == 0x00460000


def test_read_only_registers_keep_their_values(driver: PolledDriver) -> None:
    for register, width in ((Register.CAP, 8), (Register.VS, 4), (Register.FWCAP, 4), (Register.CSTS, 4)):
        before = driver.read(register, width)
        driver.write(register, ~before & (1 << 8 * width) - 1, width)
        assert driver.read(register, width) == before


@settings(max_examples=60)
@given(
    accesses=st.lists(
        st.tuples(st.integers(0, 0x48), st.sampled_from((1, 2, 4, 8)), st.integers(0, 2**64 - 1), st.booleans()),
        max_size=20,
    )
)
def test_any_access_is_answered(driver: PolledDriver, accesses: list[tuple[int, int, int, bool]]) -> None:
    driver.function.reset()
    for offset, width, value, is_write in accesses:
        if is_write:
            driver.function.write_bar(Bar.REGISTERS, offset, width, value & (1 << 8 * width) - 1)
        else:
            assert 0 <= driver.function.read_bar(Bar.REGISTERS, offset, width) < 1 << 8 * width
    assert driver.read(Register.CAP, 8) == 0x00000030_140303FF


def test_enable_and_disable(driver: PolledDriver, device: DeviceUnderTest) -> None:
    driver.enable()
    assert driver.csts == Csts.of(rdy=1)
    assert driver.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).status == AdminStatus.SUCCESS
    driver.disable()
    assert driver.csts == 0
    assert device.module.resets == ["disable"]
    driver.enable()
    assert driver.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).status == AdminStatus.SUCCESS


def test_entry_sizes_are_no_new_enable(driver: PolledDriver) -> None:
    driver.enable()
    driver.run_admin(AdminOpcode.GET_RES_CNT, dw10=1)
    driver.write(Register.CC, ENTRY_SIZES)
    assert driver.read(Register.CC) == 0x67460001
    assert driver.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).status == AdminStatus.SUCCESS
    assert driver.admin.sqhd == 2
    driver.disable()
    assert driver.read(Register.CC) == 0x67460000


def test_registers_written_while_ready_take_effect_at_the_next_enable(driver: PolledDriver) -> None:
    driver.enable()
    driver.write(Register.ASQ, 0xDEAD000, 8)
    driver.write(Register.AQA, Aqa.of(asqs=1, acqs=1))
    assert driver.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).status == AdminStatus.SUCCESS


@pytest.mark.parametrize("aqa", [Aqa.of(asqs=0, acqs=15), Aqa.of(asqs=15, acqs=0), Aqa(0)])
def test_admin_queue_of_one_entry_is_fatal(driver: PolledDriver, aqa: Aqa) -> None:
    driver.write(Register.AQA, aqa)
    driver.write(Register.CC, 1)
    assert driver.csts == Csts.of(cfs=1)
    driver.write(Register.CC, 0)
    assert driver.csts == 0
    driver.enable()


def test_nssr_leaves_cc_and_needs_a_write_to_enable_again(driver: PolledDriver, device: DeviceUnderTest) -> None:
    driver.enable()
    driver.create_pair(1)
    driver.nssr()
    assert driver.csts == 0
    assert Cc(driver.read(Register.CC)).en
    assert device.module.resets == ["nssr"]
    driver.nssr()
    assert device.module.resets == ["nssr", "nssr"]
    driver.write(Register.AQA, 0x000F000F)
    assert driver.csts == 0, "the controller enabled itself"
    driver.disable()
    assert device.module.resets == ["nssr", "nssr"]
    driver.enable()
    driver.create_pair(1)


@pytest.mark.parametrize("value", [0, 1, NSSR_MAGIC ^ 1, 0xFFFF_FFFF])
def test_other_values_at_nssr_do_nothing(driver: PolledDriver, device: DeviceUnderTest, value: int) -> None:
    driver.enable()
    driver.write(Register.NSSR, value)
    assert driver.csts == Csts.of(rdy=1)
    assert device.module.resets == []


@pytest.mark.parametrize("kind", ["device", "function level"])
def test_reset_clears_registers_and_queues_and_keeps_resources(
    driver: PolledDriver, device: DeviceUnderTest, kind: str
) -> None:
    reset = device.function.reset if kind == "device" else device.level_reset
    driver.enable()
    driver.write(Register.CC, ENTRY_SIZES)
    driver.create_pair(1)
    driver.create_pair(256)
    device.module.resets.clear()
    reset()
    assert [driver.read(r) for r in (Register.CC, Register.CSTS, Register.AQA)] == [0, 0, 0]
    assert [driver.read(r, 8) for r in (Register.ASQ, Register.ACQ)] == [0, 0]
    assert device.module.resets == ["disable"]
    driver.admin.ring()
    driver.enable()
    assert driver.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).dw0 == 2
    driver.create_pair(1)
    driver.create_pair(256)


def test_reset_of_a_function_that_is_not_ready_leaves_the_partition(
    driver: PolledDriver, device: DeviceUnderTest
) -> None:
    device.module.resets.clear()
    device.level_reset()
    assert device.module.resets == []


def stop_admin_queue(driver: PolledDriver) -> None:
    """Let a ready controller fail: its admin entries cannot be read."""
    driver.enable()
    driver.disable()
    driver.write(Register.ASQ, 0x7777_0000_0000, 8)
    driver.write(Register.CC, 1)
    assert driver.csts == Csts.of(rdy=1), "rings must not be touched before the first doorbell"
    driver.admin.ring()
    driver.function.write_bar(Bar.DOORBELLS, 0, 4, 1)
    until(lambda: driver.csts.cfs, "a failure that is fatal", every_s=0)
    assert driver.csts == Csts.of(rdy=1, cfs=1)


def test_unreadable_admin_entry_is_fatal_until_disabled(driver: PolledDriver) -> None:
    stop_admin_queue(driver)
    driver.disable()
    assert driver.csts == 0
    driver.enable()
    assert driver.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).status == AdminStatus.SUCCESS


def test_a_subsystem_reset_ends_a_failure(driver: PolledDriver) -> None:
    stop_admin_queue(driver)
    driver.nssr()
    assert driver.csts == 0


def test_unwritable_admin_completion_is_fatal(driver: PolledDriver) -> None:
    driver.enable()
    driver.disable()
    driver.write(Register.ACQ, 0x7777_0000_0000, 8)
    driver.write(Register.CC, 1)
    driver.admin.tail = 0
    driver.admin.submit(admin_sqe(AdminOpcode.GET_RES_CNT, 1))
    until(lambda: driver.csts.cfs, "a failure that is fatal", every_s=0)
    assert driver.csts == Csts.of(rdy=1, cfs=1)


def test_an_admin_command_of_a_past_controller_acts_on_nothing(driver: PolledDriver, device: DeviceUnderTest) -> None:
    """A worker may hold a command while the owner disables the controller, and be let in only afterwards."""
    driver.enable()
    ring = Ring(driver.function, driver.arena, 1, 16)
    queue, flags = QueueDw10.of(id=1, size=15), CreateCqDw11.of(pc=1)
    past: Any = PulledBefore(admin_sqe(AdminOpcode.CREATE_CQ, 1, dw10=queue, dw11=flags, prp1=ring.cq_memory.iova))
    device.device.controller.execute_admin(past)
    assert device.device.engine.queue(1) is None
    assert driver.create_cq(ring).status == AdminStatus.SUCCESS


def test_disabled_controller_ignores_doorbells(driver: PolledDriver, device: DeviceUnderTest) -> None:
    driver.enable()
    driver.disable()
    driver.admin.submit(admin_sqe(AdminOpcode.GET_RES_CNT, 1))
    assert driver.admin.poll() is None
    if not isinstance(device.function, MappedDoorbells):  # nobody looks at the words of queues that do not exist
        assert device.device.status()["counters"]["doorbells_unknown_queue"] >= 1
    driver.enable()
    assert driver.admin.poll() is None
    assert driver.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).status == AdminStatus.SUCCESS
