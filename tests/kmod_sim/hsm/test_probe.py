# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a probe does to the device, in which order, and how it fails by cause (spec 01 §1, §12)."""

from __future__ import annotations

import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi.admin import IDENTIFY, AdminOpcode, CreateCqDw11, Feature, QueueDw10
from ihsm_abi.doorbells import cq_head_offset, sq_tail_offset
from ihsm_abi.pci import Bar
from ihsm_abi.registers import GONE, Cc, Csts, Register
from ihsm_abi.uapi import ControllerState
from ihsm_kmod.hsm import identify, rings
from ihsm_kmod.kernel.clock import StillClock
from ihsm_kmod.kernel.dma import dma_alloc_coherent
from ihsm_kmod.kernel.dma_debug import DmaMemory
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.pci import PciDev
from ihsm_kmod.kernel.task import current
from support.bent_function import Access, BentFunction
from support.hsm_driver import ADMIN_TIMEOUT_S, BDF, Driver, commands_of, driver_on
from support.process import serve
from support.waiting import HANG_S, ended


def test_a_second_bind_carries_the_entry_sizes_of_the_first_on(driver: Driver) -> None:
    driver.unbind()
    driver.function.take()
    driver.bind()
    assert [access.value for access in driver.function.take() if (access.bar, access.offset) == (0, Register.CC)] == [
        0x67460000,
        0x67460000,
        0x67460001,
        0x67460001,
        0x67460001,
    ]


def test_a_controller_that_runs_already_is_disabled_first(function: BentFunction) -> None:
    function.inner.write_bar(Bar.REGISTERS, Register.CC, 4, Cc.of(en=1))
    with driver_on(function) as driver:
        assert driver.probe_error == 0
        writes = [access.value for access in function.accesses if access.op == "write" and access.offset == Register.CC]
        assert writes[:2] == [0, 1]


def test_the_node_is_there_before_the_aes_queues(function: BentFunction) -> None:
    found = []

    def look(access: Access) -> None:
        if access.bar == Bar.DOORBELLS and access.offset == sq_tail_offset(0):
            sqe = function.admin[-1]
            if sqe["opc"] == AdminOpcode.SET_FEATURES:
                found.append((int(sqe["dw10"]), current().kernel.vfs.exists("/dev/azihsm0")))

    function.after_write = look
    with driver_on(function):
        assert found == [(Feature.HSM_QUEUE_COUNT, False), (Feature.AES_QUEUE_COUNT, True)]


@pytest.mark.parametrize("early", [True, False])
def test_it_is_ready_before_it_knows_the_capabilities(function: BentFunction, early: bool) -> None:
    states = []

    def look(access: Access) -> None:
        if function.admin and function.admin[-1]["opc"] == AdminOpcode.GET_FEATURES and not states:
            states.append(current().kernel.pci.device(BDF).driver_data.controller.state)

    function.after_write = look
    with driver_on(function, {"ready_before_fw_caps": early}):
        assert states == [ControllerState.READY if early else ControllerState.INIT_IN_PROGRESS]


# Each cause has its errno (end of section 12).


def probe_error(function: BentFunction, **parameters: int) -> int:
    with driver_on(function, **parameters) as driver:
        assert driver.reports == []
        return driver.probe_error


def test_a_bar_of_another_length_is_no_memory(function: BentFunction) -> None:
    class Long(BentFunction):
        def bar_bytes(self, bar: int) -> int:
            return 8192 if bar == Bar.DOORBELLS else self.inner.bar_bytes(bar)

    assert probe_error(Long(function)) == errno.ENOMEM


class Vectored(BentFunction):
    """A function with another number of vectors."""

    count = 0

    @property
    def vectors(self) -> int:
        return self.count

    def enable_interrupts(self, events: Sequence[int | None]) -> None:
        self.inner.enable_interrupts(events[: self.inner.vectors])


@pytest.mark.parametrize(
    ("count", "error"),
    [
        (2, errno.ENOSPC),
        (3, errno.EINVAL),  # vector 16 of the first AES queue does not exist
        (17, errno.EINVAL),  # nor does 17 of the second
        (18, 0),
        (32, 0),
    ],
)
def test_vectors_that_suffice(function: BentFunction, count: int, error: int) -> None:
    vectored = Vectored(function)
    vectored.count = count
    assert probe_error(vectored) == error


def test_a_function_without_msix_is_refused(function: BentFunction) -> None:
    assert probe_error(Vectored(function)) == errno.EINVAL


def test_a_device_that_is_gone(function: BentFunction) -> None:
    function.reads[Register.CSTS] = lambda value: GONE
    assert probe_error(function) == errno.ENODEV


def test_a_controller_that_has_failed(function: BentFunction) -> None:
    function.reads[Register.CSTS] = lambda value: Csts(value).replace(cfs=1)
    assert probe_error(function) == errno.EFAULT


@pytest.mark.parametrize("stays", [True, False])
def test_a_controller_that_does_not_become_ready(function: BentFunction, stays: bool) -> None:
    def never(value: int) -> int:
        clock.advance(1)
        return Csts(value).replace(rdy=0)

    clock = StillClock(HANG_S)
    function.reads[Register.CSTS] = never
    with driver_on(function, {"en_stays_after_failed_enable": stays}, clock=clock) as driver:
        assert driver.probe_error == errno.ETIMEDOUT
        # (TO + 1) x 500 ms with TO 20; the first read is that before the enable.
        assert len([access for access in function.accesses if access.offset == Register.CSTS]) == 1 + 11
        assert Cc(function.inner.read_bar(Bar.REGISTERS, Register.CC, 4)).en == stays
        assert driver.reports == []


@pytest.mark.parametrize("field", ["cp_sqes", "cp_cqes", "fp_sqes", "fp_cqes"])
def test_entries_of_another_size(function: BentFunction, field: str) -> None:
    def change(access: Access) -> None:
        # The head doorbell is rung before the waiter is woken, which then looks at the page.
        if (access.bar, access.offset, access.value) == (Bar.DOORBELLS, cq_head_offset(0), 1):
            function.memory(int(function.admin[0]["prp1"]), IDENTIFY)[field] = 0x65

    function.after_write = change
    assert probe_error(function) == errno.EINVAL
    assert Cc(function.inner.read_bar(Bar.REGISTERS, Register.CC, 4)) == 0, "disabled, and no sizes were programmed"


@pytest.mark.parametrize(
    "opcode", [AdminOpcode.IDENTIFY, AdminOpcode.SET_FEATURES, AdminOpcode.CREATE_CQ, AdminOpcode.CREATE_SQ]
)
def test_a_command_that_is_refused(function: BentFunction, opcode: AdminOpcode) -> None:
    function.refused.add(opcode)
    assert probe_error(function) == errno.EFAULT
    assert not Cc(function.inner.read_bar(Bar.REGISTERS, Register.CC, 4)).en


@pytest.mark.parametrize("last", range(9), ids="after {}".format)
def test_no_memory_for_a_ring_or_the_identify_page(
    function: BentFunction, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    """Four queues with two rings each, and the page: what was allocated before is given back."""
    allocated = []

    def allocate(pdev: PciDev, size: int) -> DmaMemory:
        if len(allocated) == last:
            raise Errno(errno.ENOMEM)
        allocated.append(dma_alloc_coherent(pdev, size))
        return allocated[-1]

    for user in (identify, rings):
        monkeypatch.setattr(user, "dma_alloc_coherent", allocate)
    assert probe_error(function) == errno.ENOMEM
    assert not Cc(function.inner.read_bar(Bar.REGISTERS, Register.CC, 4)).en


def test_capabilities_that_are_refused_are_none(function: BentFunction) -> None:
    function.refused.add(AdminOpcode.GET_FEATURES)
    with driver_on(function) as driver:
        assert driver.probe_error == 0
        assert not driver.controller.gcm_workaround


def test_capabilities_allow_unaligned_gcm(driver: Driver) -> None:
    assert driver.controller.gcm_workaround


def test_a_command_without_answer(function: BentFunction) -> None:
    function.unanswered.add(AdminOpcode.IDENTIFY)
    clock = StillClock(HANG_S)
    expiry = threading.Thread(target=clock.expire, args=[ADMIN_TIMEOUT_S])
    expiry.start()
    with driver_on(function, clock=clock) as driver:
        assert driver.probe_error == errno.EAGAIN
        assert driver.reports == []
    ended(expiry)


def test_the_cq_of_an_sq_that_was_refused_is_deleted(function: BentFunction) -> None:
    function.refused.add(AdminOpcode.CREATE_SQ)
    with driver_on(function) as driver:
        assert [opcode for opcode, _ in commands_of(driver)][-3:] == [
            AdminOpcode.CREATE_CQ,
            AdminOpcode.CREATE_SQ,
            AdminOpcode.DELETE_CQ,
        ]


@pytest.mark.parametrize("left", [True, False])
def test_queues_before_one_that_was_refused(function: BentFunction, left: bool) -> None:
    def refuse_second(access: Access) -> None:
        if function.admin and QueueDw10(int(function.admin[-1]["dw10"])).id == 257:
            function.refused.add(AdminOpcode.CREATE_SQ)

    function.after_write = refuse_second
    with driver_on(function, {"queues_left_after_failed_create": left}) as driver:
        assert driver.probe_error == errno.EFAULT
        deleted = [QueueDw10(dw10).id for opcode, dw10 in commands_of(driver) if opcode is AdminOpcode.DELETE_SQ]
        assert deleted == ([] if left else [256])


def test_many_queues_share_the_vectors(socket_folder: Path) -> None:
    with (
        serve("--socket", str(socket_folder / "s"), "--resources", "18") as server,
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
        driver_on(function) as driver,
    ):
        assert driver.probe_error == 0
        vectors = {
            QueueDw10(int(sqe["dw10"])).id: CreateCqDw11(int(sqe["dw11"])).ivec
            for sqe in driver.function.admin
            if sqe["opc"] == AdminOpcode.CREATE_CQ
        }
        assert vectors == {
            **{1 + index: 1 + index % 15 for index in range(18)},
            **{256 + index: 16 + index % 16 for index in range(36)},
        }
        for _ in range(36):
            assert driver.hsm().error == driver.aes().error == 0
