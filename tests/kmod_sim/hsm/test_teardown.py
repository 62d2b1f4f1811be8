# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Unbind, unload, removal in mid-command, shutdown (spec 01 §4.6, §5.2, §13)."""

from __future__ import annotations

import errno

import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi.admin import AdminOpcode, Psf
from ihsm_abi.doorbells import cq_head_offset, sq_tail_offset
from ihsm_abi.hsm_queue import HSM_CQE
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Cc, Register
from ihsm_abi.uapi import AbortType, InternalCode
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.kernel.errors import Oops
from ihsm_kmod.kernel.interrupt import tasklet_schedule
from ihsm_kmod.kernel.report import ReportKind
from support.bent_function import Access, BentFunction
from support.hsm_driver import ADMIN_TIMEOUT_S, BDF, COMMAND_TIMEOUT_S, Driver, commands_of, driver_on
from support.process import ServeProcess
from support.waiting import HANG_S, until

DELETES = [
    (opcode, queue_id) for queue_id in (256, 257, 1) for opcode in (AdminOpcode.DELETE_SQ, AdminOpcode.DELETE_CQ)
]


def test_unbind_deletes_aes_queues_then_the_node_then_hsm_queues(driver: Driver) -> None:
    nodes = []

    def look(access: Access) -> None:
        if (access.bar, access.offset) == (Bar.DOORBELLS, sq_tail_offset(0)):
            nodes.append(driver.machine.kernel.vfs.exists("/dev/azihsm0"))

    commands_of(driver)
    driver.function.after_write = look
    driver.unbind()
    assert commands_of(driver) == DELETES
    assert nodes == [True] * 4 + [False] * 2
    assert not driver.machine.kernel.vfs.exists(f"/sys/bus/pci/devices/{BDF}/azihsm")


def test_what_a_queue_completes_while_it_is_deleted_is_not_consumed(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = driver.controller.hsm_pool.queues[0]
    driver.function.silent.add(1)
    command = driver.start_hsm()
    driver.await_unheard(1)
    commands_of(driver)
    write = driver.function.inner.write_bar

    def complete_before(bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        # The device gets to know of the command when its queue is off the vector's list, and not yet of DELETE_SQ.
        if commands_of(driver) == [(AdminOpcode.DELETE_SQ, 1)]:
            write(Bar.DOORBELLS, sq_tail_offset(1), 4, 1)
            until(lambda: Psf(queue.cq.view.view(HSM_CQE)[0]["psf"]).phase, "it has completed")
        write(bar, offset, width, value, posted=posted)

    monkeypatch.setattr(driver.function.inner, "write_bar", complete_before)
    controller = driver.controller
    driver.unbind()
    assert not [one for one in driver.function.accesses if (one.bar, one.offset) == (2, cq_head_offset(1))]
    # Its caller waits for its own timeout, and finds that there is nothing to recover.
    driver.clock.expire(COMMAND_TIMEOUT_S)
    assert command.join() == Outcome(InternalCode.UNDEFINED, None, errno.EAGAIN)
    assert not controller.abort_in_progress


def test_refused_deletes_are_ignored(driver: Driver) -> None:
    commands_of(driver)
    driver.function.refused |= {AdminOpcode.DELETE_SQ, AdminOpcode.DELETE_CQ}
    driver.unbind()
    assert commands_of(driver) == DELETES
    driver.function.refused.clear()
    driver.bind()
    assert driver.hsm().error == 0


def test_each_delete_without_answer_costs_half_a_minute(driver: Driver) -> None:
    driver.stop_monitor()
    driver.function.unanswered.add(AdminOpcode.DELETE_SQ)
    commands_of(driver)
    removal = driver.machine.kernel.thread(driver.unbind, "bash")
    for _ in DELETES:
        driver.clock.expire(ADMIN_TIMEOUT_S)
    removal.join()
    assert commands_of(driver) == DELETES


def test_a_device_that_was_pulled_out(server: ServeProcess) -> None:
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function, driver_on(function) as driver:
        driver.stop_monitor()
        command = driver.start_hsm()
        command.join()
        removal = driver.machine.kernel.thread(lambda: driver.machine.kernel.pci.remove(BDF), "bash")
        for _ in DELETES:
            driver.clock.expire(ADMIN_TIMEOUT_S)
        removal.join()
        assert driver.says("disable failed: ENODEV")
        assert driver.reports == []


def test_a_removal_waits_for_an_abort(driver: Driver) -> None:
    """Level 2 in one thread, unbind in another: one after the other."""
    removals = []

    def unbind(access: Access) -> None:
        if (access.bar, access.offset) == (Bar.REGISTERS, Register.ASQ):
            driver.function.after_write = None
            removals.append(driver.machine.kernel.thread(driver.unbind, "bash"))

    driver.function.after_write = unbind
    controller = driver.controller
    driver.run(controller.abort, AbortType.L2_RESET)
    removals[0].join()
    assert Cc(driver.function.inner.read_bar(Bar.REGISTERS, Register.CC, 4)) == 0x67460000


def test_shutdown_only_disables(function: BentFunction) -> None:
    with driver_on(function) as driver:
        function.take()
        driver.machine.kernel.power_off()
        assert [(one.op, one.bar, one.offset) for one in function.take()] == [
            ("read", Bar.REGISTERS, Register.CC),
            ("write", Bar.REGISTERS, Register.CC),
            ("read", Bar.REGISTERS, Register.CAP),
            ("read", Bar.REGISTERS, Register.CSTS),
        ]
        assert driver.reports == []


def test_unload_takes_all_functions(driver: Driver) -> None:
    kernel = driver.machine.kernel
    kernel.unload(driver.machine.module)
    assert not kernel.vfs.exists("/sys/class/azihsm-hsm")
    assert kernel.reports == []


@pytest.mark.parametrize("outlive", [False, True])
def test_a_tasklet_of_a_vector_that_was_freed(function: BentFunction, outlive: bool) -> None:
    with driver_on(function, {"tasklets_outlive_vectors": outlive}) as driver:
        vector = driver.controller.hsm_pool.queues[0].vector
        driver.unbind()
        driver.run(tasklet_schedule, vector.tasklet)
        if outlive:
            until(lambda: driver.machine.kernel.crashed, "the kernel has crashed")
            assert driver.reports[-1].where.startswith("irq.py:")
            assert driver.reports[-1].kind is ReportKind.CRASH
            with pytest.raises(Oops):
                driver.bind()
        else:
            until(lambda: vector.tasklet.is_idle, "it has run")
            assert driver.reports == []
