# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""I/O queues: rings, tags, completions, selection, counters (spec 01 §5, §7; 02 A.2, A.8)."""

from __future__ import annotations

import errno
import threading

import numpy as np
import pytest

from ihsm_abi.admin import AdminOpcode
from ihsm_abi.doorbells import cq_head_offset, sq_tail_offset
from ihsm_abi.hsm_queue import HSM_CQE, HSM_SQE
from ihsm_abi.pci import Bar
from ihsm_abi.uapi import AbortType, InternalCode
from ihsm_kmod.hsm.logs import LogMask
from ihsm_kmod.hsm.tags import Command, TagStore
from ihsm_kmod.kernel.errors import Errno, Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.mutex import mutex_is_locked
from ihsm_kmod.kernel.report import ReportKind
from support.bent_function import Access, BentFunction
from support.hsm_driver import ADMIN_TIMEOUT_S, GRACE_S, NO_SESSION, Driver, driver_on, hsm_entry
from support.waiting import HANG_S, until

HUNG_S = 120


def doorbells(driver: Driver, offset: int) -> list[int]:
    return [
        access.value for access in driver.function.accesses if (access.bar, access.offset) == (Bar.DOORBELLS, offset)
    ]


def test_a_command_comes_back(driver: Driver) -> None:
    outcome = driver.hsm()
    assert (outcome.code, outcome.error) == (InternalCode.SUCCESS, 0)
    assert outcome.cqe is not None
    assert np.frombuffer(outcome.cqe, HSM_CQE)[0]["sqhd"] == 1


def test_an_entry_is_in_the_ring_before_its_doorbell_is_rung(driver: Driver) -> None:
    [queue] = driver.controller.hsm_pool.queues
    rung = []

    def look(access: Access) -> None:
        if (access.bar, access.offset) == (Bar.DOORBELLS, sq_tail_offset(1)):
            rung.append(access.value)
            assert queue.sq.view.view(HSM_SQE)[access.value - 1]["session_id"] == NO_SESSION, "no entry yet"

    driver.function.after_write = look
    for _ in range(2):
        assert driver.hsm().error == 0
    assert rung == [1, 2]


def test_rings_wrap_and_the_phase_turns(driver: Driver) -> None:
    def count(access: Access) -> None:
        # Who takes what lies in the ring from before for new never comes to an end.
        assert len(doorbells(driver, cq_head_offset(1))) <= 40

    driver.function.after_write = count
    for _ in range(40):
        assert driver.hsm().error == 0
    indexes = [number % 16 for number in range(1, 41)]
    assert doorbells(driver, sq_tail_offset(1)) == indexes
    assert doorbells(driver, cq_head_offset(1)) == indexes  # once for each completion


def test_aes_queues_take_turns(driver: Driver) -> None:
    for _ in range(4):
        driver.aes()
    assert doorbells(driver, sq_tail_offset(256)) == doorbells(driver, sq_tail_offset(257)) == [1, 2]


def test_counters_of_a_queue_that_works(driver: Driver) -> None:
    for _ in range(3):
        driver.hsm()
    driver.aes()
    shown = {
        name: int(driver.machine.sysfs(f"cp_sq1/{name}")) for name in ("num_cmds_pending_in_hw", "total_ios_in_error")
    }
    assert shown == {"num_cmds_pending_in_hw": 0, "total_ios_in_error": 0}
    assert driver.machine.sysfs("cp_sq1/total_ios_completed_by_hw") == "3\n"
    assert driver.machine.sysfs("fp_sq256/total_ios_in_error") == "1\n"
    assert driver.machine.sysfs("global/total_submissions") == "4"
    assert driver.machine.sysfs("global/total_completions") == "4"
    assert driver.machine.sysfs("global/total_error_completions") == "1"
    assert driver.machine.sysfs("admin/num_cpqs_created") == "1"
    assert driver.machine.sysfs("admin/num_fpqs_created") == "2"


def test_tags_are_unique_and_begin_anywhere() -> None:
    kernel = Kernel()
    commands = [Command() for _ in range(16)]
    firsts = set()
    for _ in range(200):
        tags = TagStore(16)
        assert [kernel.run(tags.claim, command) for command in commands] == [True] * 15 + [False]
        assert {command.tag for command in commands[:-1]} == set(range(15))
        firsts.add(commands[0].tag)
    assert len(firsts) > 1
    kernel.close()


def test_a_tag_that_was_taken_back_is_the_next_ones() -> None:
    """Who gives it back once more, as after an abort that failed, takes nothing from whoever has it now."""
    kernel = Kernel()
    tags, first, second = TagStore(2), Command(), Command()
    assert kernel.run(tags.claim, first)
    kernel.run(tags.release, first)
    assert kernel.run(tags.claim, second)
    kernel.run(tags.release, first)
    assert (first.tag, tags.find(0), tags.outstanding()) == (0, second, [second])
    assert not kernel.run(tags.claim, Command())
    kernel.close()


def test_a_completion_of_nobody_is_consumed(driver: Driver) -> None:
    driver.machine.module.log_mask = int(LogMask.ERROR | LogMask.WARN)
    queue = driver.controller.hsm_pool.queues[0]
    driver.function.silent.add(1)
    lost = driver.start_hsm()
    driver.await_unheard(1)
    driver.run(queue.forget, queue.tags.outstanding()[0])
    driver.function.silent.clear()
    driver.function.inner.write_bar(Bar.DOORBELLS, sq_tail_offset(1), 4, 1)
    until(lambda: queue.head == 1 and queue.vector.tasklet.is_idle, "it is consumed")
    assert queue.sq_head == 1, "what it tells of the submission queue counts all the same"
    assert driver.hsm().error == 0
    assert queue.head == 2
    assert driver.says("completion of unknown command")
    # Nobody completes the first one any more, an abort neither: a warning.
    driver.time_out()
    driver.clock.expire(GRACE_S)
    assert lost.join().code is InternalCode.UNDEFINED
    assert [report.kind for report in driver.reports] == [ReportKind.WARN]
    driver.reports.clear()


def test_a_tag_of_the_admin_queue_is_free_when_its_command_has_timed_out(driver: Driver) -> None:
    """What the device answers later is for nobody, or for whoever has the tag by then (spec 01 §6)."""
    driver.stop_monitor()
    driver.function.unanswered.add(AdminOpcode.GET_RES_CNT)
    queue = driver.controller._admin_queue
    assert queue is not None
    command = driver.machine.kernel.thread(lambda: driver.controller.admin().get_resource_count(1), "app")
    driver.clock.await_timer(ADMIN_TIMEOUT_S)
    assert len(queue.tags.outstanding()) == 1
    driver.clock.advance(ADMIN_TIMEOUT_S)
    with pytest.raises(Errno, match="EAGAIN"):
        command.join()
    assert queue.tags.outstanding() == []
    driver.function.unanswered.clear()
    driver.run(driver.controller.abort, AbortType.L2_RESET)  # the device hears of admin commands again


def test_an_admin_queue_that_is_past_takes_nothing(driver: Driver) -> None:
    """A management ioctl that has looked for it before a reset would ring the doorbell of the one that is there now."""
    past = driver.controller.admin()
    driver.run(driver.controller.abort, AbortType.L2_RESET)
    driver.function.take()
    command = driver.machine.kernel.thread(lambda: past.get_resource_count(1), "app")
    until(lambda: command.is_done or driver.function.accesses, "it has been looked at")
    assert driver.function.take() == []
    with pytest.raises(Errno, match="ENODEV"):
        command.join()
    assert driver.run(driver.controller.admin().get_resource_count, 1) == 1


def test_a_queue_whose_head_lags_is_full(driver: Driver) -> None:
    queue = driver.controller.hsm_pool.queues[0]
    queue.sq_head = 1
    outcome = driver.hsm()
    assert (outcome.code, outcome.error) == (InternalCode.UNDEFINED, errno.EAGAIN)
    assert not queue.tags.outstanding()


def test_a_disabled_queue_takes_nothing(driver: Driver) -> None:
    queue = driver.controller.hsm_pool.queues[0]
    queue.disabled = True
    command = Command()
    with pytest.raises(Errno) as caught:
        driver.run(queue.submit, hsm_entry(), command)
    assert (command.code, caught.value.errno) == (InternalCode.QDISABLED, errno.EAGAIN)
    assert driver.hsm().code is InternalCode.QSELECT_FAILED
    assert doorbells(driver, sq_tail_offset(1)) == []


def test_a_command_that_was_aborted_while_it_waited_for_the_lock(function: BentFunction) -> None:
    """It has a tag before it has the lock, and when it has that, the tag may be another command's."""
    with driver_on(function, {"full_queue_sleeps_locked": False}) as driver:
        queue, command = driver.controller.hsm_pool.queues[0], Command()
        holding, go_on = threading.Event(), threading.Event()

        def hold() -> None:
            with queue.submit_lock:
                holding.set()
                assert go_on.wait(HANG_S)

        holder = driver.machine.kernel.thread(hold, "holder")
        assert holding.wait(HANG_S)
        submitter = driver.machine.kernel.thread(lambda: queue.submit(hsm_entry(), command), "app")
        until(queue.tags.outstanding, "it has a tag")
        assert driver.run(queue.flush) == 1
        go_on.set()
        holder.join()
        with pytest.raises(Errno) as caught:
            submitter.join()
        assert (command.code, caught.value.errno) == (InternalCode.ABORTED, errno.EAGAIN)
        assert doorbells(driver, sq_tail_offset(1)) == []
        assert driver.hsm().error == 0


def test_selection_passes_disabled_and_full_queues(driver: Driver) -> None:
    pool = driver.controller.aes_pool
    first, second = pool.queues
    first.disabled = True
    assert [driver.run(pool.select) for _ in range(3)] == [second] * 3
    first.disabled, second.sq_head = False, 1
    assert [driver.run(pool.select) for _ in range(3)] == [first] * 3
    # All are full: the one whose turn it is.
    first.sq_head = 1
    assert [driver.run(pool.select) for _ in range(3)] == [first, second, first]


def test_the_null_queue(function: BentFunction) -> None:
    with driver_on(function, {"null_queue": True}) as driver:
        driver.controller.hsm_pool.queues[0].disabled = True
        with pytest.raises(Oops) as caught:
            driver.hsm()
        assert caught.value.report.kind is ReportKind.NULL_POINTER
        assert caught.value.report.where.startswith("execute.py:")


@pytest.mark.parametrize("on", [False, True])
def test_a_completion_while_its_queue_is_freed(function: BentFunction, on: bool) -> None:
    def free_statistics(access: Access) -> None:
        # In the tasklet, before the waiter is woken.
        if (access.bar, access.offset) == (Bar.DOORBELLS, cq_head_offset(1)):
            controller.hsm_pool.queues[0].perf.clear()

    with driver_on(function, {"late_completion_divides": on}) as driver:
        controller = driver.controller
        function.after_write = free_statistics
        if on:
            with pytest.raises(Oops) as caught:
                driver.hsm()
            assert caught.value.report.kind is ReportKind.DIVIDE_ERROR
        else:
            assert driver.hsm().error == 0


def test_without_a_free_tag_the_caller_sleeps(function: BentFunction) -> None:
    with driver_on(function, num_hsm_slots=2) as driver:
        queue = driver.controller.hsm_pool.queues[0]
        function.silent.add(1)
        first = driver.start_hsm()
        driver.await_unheard(1)
        second = driver.start_hsm()
        until(lambda: mutex_is_locked(queue.submit_lock), "the second caller sleeps")
        function.silent.clear()
        function.inner.write_bar(Bar.DOORBELLS, sq_tail_offset(1), 4, 1)
        assert first.join().error == second.join().error == 0
        assert driver.reports == []


@pytest.mark.parametrize("locked", [True, False])
def test_an_abort_does_not_get_past_a_caller_without_tag(function: BentFunction, locked: bool) -> None:
    with driver_on(function, {"full_queue_sleeps_locked": locked}, num_hsm_slots=2) as driver:
        queue = driver.controller.hsm_pool.queues[0]
        function.silent.add(1)
        first = driver.start_hsm()
        driver.await_unheard(1)
        second = driver.start_hsm()
        until(lambda: queue.perf.submitted == 2, "the second caller is there")
        if locked:
            until(lambda: mutex_is_locked(queue.submit_lock), "the second caller sleeps")
            driver.time_out()
            driver.stop_monitor()
            driver.clock.advance(HUNG_S + 1)
            with pytest.raises(Oops) as caught:
                first.join()
            assert caught.value.report.kind is ReportKind.HUNG_TASK
        else:
            function.silent.clear()
            driver.time_out()
            assert first.join().code is InternalCode.ABORTED
            # It got the tag of the first, while the queue was still disabled or when it was not any more.
            assert second.join().code in (InternalCode.QDISABLED, InternalCode.SUCCESS)
