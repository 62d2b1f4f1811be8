# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The kernel itself: its log, its tasks, its threads, and its end."""

from __future__ import annotations

import os
import threading
from bdb import BdbQuit

import pytest

from ihsm_kmod.kernel import kernel as kernel_module
from ihsm_kmod.kernel.clock import StillClock
from ihsm_kmod.kernel.completion import Completion, wait_for_completion
from ihsm_kmod.kernel.dma import dma_alloc_coherent, dma_set_mask_and_coherent
from ihsm_kmod.kernel.errors import Oops
from ihsm_kmod.kernel.interrupt import IRQ_HANDLED, request_irq
from ihsm_kmod.kernel.jiffies import jiffies
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.pci import PciDev, PciDeviceId, pci_alloc_irq_vectors, pci_irq_vector, pci_register_driver
from ihsm_kmod.kernel.printk import LogLevel, dev_dbg, dev_err, dev_info, dev_warn, pr_debug, pr_err, pr_info, pr_warn
from ihsm_kmod.kernel.report import Report, ReportKind
from ihsm_kmod.kernel.sched import cond_resched
from ihsm_kmod.kernel.task import current
from ihsm_kmod.kernel.wait import WaitQueueHead, wait_event_interruptible
from ihsm_kmod.kernel.workqueue import Work, schedule_work
from support.broken_drivers import bug_in, lives
from support.fake_function import FakeFunction
from support.pci_drivers import BDF, driver
from support.waiting import HANG_S, ended, until


class Device:
    name = "0000:00:04.0"
    driver: object = None


class NamedDriver:
    name = "sample"


def test_the_log(kernel: Kernel, clock: StillClock) -> None:
    device = Device()

    def driver() -> None:
        for log in (pr_err, pr_warn, pr_info, pr_debug):
            log("text")
        for log_of in (dev_err, dev_warn):
            log_of(device, "text")
        device.driver = NamedDriver()
        for log_of in (dev_info, dev_dbg):
            log_of(device, "text")

    clock.advance(12.5)
    kernel.run(driver)
    levels = [LogLevel.ERR, LogLevel.WARNING, LogLevel.INFO, LogLevel.DEBUG]
    assert [record.level for record in kernel.log] == 2 * levels
    assert [record.text for record in kernel.log[3:6:2]] == ["text", "0000:00:04.0: text"]
    assert kernel.dmesg().splitlines()[-1] == "[   12.500000] sample 0000:00:04.0: text"


def test_code_runs_as_a_task(kernel: Kernel) -> None:
    def inner() -> str:
        return current().comm

    def outer() -> list[str]:
        task = current()
        seen = [task.comm, kernel.run(inner, comm="inner")]
        assert current() is task
        return seen

    assert kernel.run(outer) == ["init", "inner"]
    with pytest.raises(RuntimeError, match="no kernel code runs in this thread"):
        current()


def test_threads_return_what_their_function_does(kernel: Kernel) -> None:
    thread = kernel.thread(lambda: 42, "answer")
    assert kernel.run(thread.join) == 42
    assert thread.join() == 42
    assert kernel.threads == []


def test_a_debugger_may_leave(kernel: Kernel) -> None:
    def driver() -> None:
        raise BdbQuit

    with pytest.raises(BdbQuit):
        kernel.run(driver)
    assert kernel.crashed is None


def test_an_oops_ends_every_thread_whatever_it_does(kernel: Kernel) -> None:
    before = set(threading.enumerate())

    def polls() -> None:
        while True:
            jiffies()

    def looks() -> None:
        while True:
            cond_resched()

    threads = [
        kernel.thread(polls, "polls"),
        kernel.thread(looks, "looks"),
        kernel.thread(lives.wait_for_nobody, "sleeps"),
        kernel.thread(lambda: wait_event_interruptible(WaitQueueHead(), lambda: False), "idles"),
    ]
    kernel.run(schedule_work, Work(lives.wait_for_nobody))
    until(lambda: len(kernel.tasks) == 5, "all run")
    with pytest.raises(Oops):
        kernel.run(lives.divide)
    for thread in threads:
        with pytest.raises(Oops):
            thread.join()
    until(lambda: set(threading.enumerate()) <= before, "the threads have ended")
    assert [report.kind for report in kernel.reports] == [ReportKind.DIVIDE_ERROR]
    kernel.close()
    assert len(kernel.reports) == 1


def test_who_waits_in_another_thread_has_the_oops_too(kernel: Kernel) -> None:
    caught: list[BaseException] = []

    def caller() -> None:
        try:
            kernel.run(wait_for_completion, Completion())
        except Oops as oops:
            caught.append(oops)

    thread = threading.Thread(target=caller)
    thread.start()
    until(lambda: kernel.tasks, "it waits")
    with pytest.raises(Oops):
        kernel.run(lives.null_pointer)
    ended(thread)
    assert isinstance(caught[0], Oops)
    assert caught[0].report.kind is ReportKind.NULL_POINTER


def test_a_crash_leaves_nothing_of_its_devices() -> None:
    def take(pdev: PciDev, identity: PciDeviceId) -> None:
        dma_set_mask_and_coherent(pdev, 64)
        dma_alloc_coherent(pdev, 4096)
        pci_alloc_irq_vectors(pdev, 1, 2)
        request_irq(pci_irq_vector(pdev, 0), lambda irq, dev_id: IRQ_HANDLED, "sample", pdev)
        lives.null_pointer()

    with FakeFunction() as function:
        before = os.listdir("/proc/self/fd")
        kernel = Kernel(StillClock())
        kernel.pci.add(function, BDF)
        with pytest.raises(Oops):
            kernel.run(pci_register_driver, driver(probe=take))
        kernel.close()
        assert os.listdir("/proc/self/fd") == before
        assert [report.kind for report in kernel.reports] == [ReportKind.NULL_POINTER]


def test_its_end_tells_who_is_still_there(kernel: Kernel) -> None:
    thread = kernel.thread(lives.wait_for_nobody, "stays")
    work = Work(lives.wait_for_nobody)
    kernel.run(schedule_work, work)
    until(lambda: len(kernel.tasks) == 2, "both sleep")
    kernel.close()
    assert sorted((report.kind, report.text.partition("/")[0]) for report in kernel.reports) == [
        (ReportKind.TASK_LEAK, "stays"),
        (ReportKind.WORK_PENDING, "work wait_for_nobody in workqueue events"),
    ]
    for end in (thread.join, lambda: kernel.run(jiffies)):
        with pytest.raises(Oops) as caught:
            end()
        assert caught.value.report.kind is ReportKind.HALTED
    assert kernel.crashed is None


def test_a_thread_that_calls_nothing_is_told_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_module, "END_S", 0.0)
    kernel, go = Kernel(), threading.Event()
    thread = kernel.thread(lambda: go.wait(HANG_S), "busy")
    until(lambda: kernel.tasks, "it runs")
    kernel.close()
    assert [report.kind for report in kernel.reports] == 2 * [ReportKind.TASK_LEAK]
    go.set()
    assert thread.join() is True


def test_the_end_of_one_kernel_is_not_that_of_another(kernel: Kernel) -> None:
    other = Kernel()
    with pytest.raises(Oops):
        other.run(lives.divide)
    other.close()
    other.close()
    assert kernel.run(lambda: 1) == 1


def test_a_report_reads_like_one_of_linux() -> None:
    report = Report(ReportKind.NULL_POINTER, "text", "queue.py:12", "app/3")
    assert str(report) == "kernel NULL pointer dereference: text at queue.py:12 in app/3"


def test_a_crash_of_a_test_is_named_in_the_test(kernel: Kernel) -> None:
    def wrong() -> None:
        assert kernel.log, "nothing was logged"  # BUG

    with pytest.raises(Oops, match="nothing was logged"):
        kernel.run(wrong)
    assert kernel.reports[0].where == bug_in(wrong)
