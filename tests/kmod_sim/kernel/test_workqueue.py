# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Work that is done later, and work that waits for itself or is forgotten."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ihsm_kmod.kernel.clock import HZ, StillClock
from ihsm_kmod.kernel.completion import Completion, complete, complete_all, wait_for_completion
from ihsm_kmod.kernel.errors import Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.kthread import KThread
from ihsm_kmod.kernel.mutex import Mutex
from ihsm_kmod.kernel.report import ReportKind
from ihsm_kmod.kernel.task import current
from ihsm_kmod.kernel.workqueue import (
    DelayedWork,
    Work,
    alloc_workqueue,
    cancel_delayed_work_sync,
    destroy_workqueue,
    flush_work,
    queue_delayed_work,
    queue_work,
    schedule_delayed_work,
    schedule_work,
)
from support.broken_drivers import bug_in, lives
from support.waiting import until


def found(kernel: Kernel) -> list[tuple[ReportKind, str]]:
    return [(report.kind, report.where) for report in kernel.reports]


def test_a_work_is_done_by_another_task(kernel: Kernel) -> None:
    tasks = []
    work = Work(lambda: tasks.append(current().comm))

    def driver() -> list[object]:
        was_queued = schedule_work(work)
        flush_work(work)
        return [was_queued, *tasks]

    assert kernel.run(driver) == [True, "kworker-events"]


def test_a_work_is_queued_once_until_it_begins_and_never_runs_twice_at_a_time(kernel: Kernel) -> None:
    begun, go, runs = Completion(), Completion(), list[int]()

    def function() -> None:
        runs.append(1)
        complete(begun)
        wait_for_completion(go)
        runs.append(-1)

    def driver() -> list[bool]:
        queued = [schedule_work(work)]
        wait_for_completion(begun)
        queued += [schedule_work(work), schedule_work(work)]
        complete_all(go)
        flush_work(work)
        return queued

    work = Work(function)
    assert kernel.run(driver) == [True, True, False]
    assert runs == [1, -1, 1, -1]


def test_no_work_waits_for_another(kernel: Kernel) -> None:
    first, second = Completion(), Completion()

    def waits() -> None:
        complete(first)
        wait_for_completion(second)

    def driver() -> None:
        work = Work(waits)
        schedule_work(work)
        wait_for_completion(first)
        schedule_work(Work(lambda: complete(second)))
        flush_work(work)

    kernel.run(driver)


def test_works_that_come_at_once_to_one_idle_thread(kernel: Kernel) -> None:
    second = Completion()
    works = [Work(lambda: wait_for_completion(second)), Work(lambda: complete(second))]

    def driver() -> None:
        warm_up = Work(lambda: None)
        schedule_work(warm_up)
        flush_work(warm_up)
        until(lambda: kernel.system_wq.idle, "its thread is idle")
        with kernel.sched.lock:
            for work in works:
                schedule_work(work)
        for work in works:
            flush_work(work)

    kernel.run(driver)


def test_a_work_that_is_due_before_those_that_are_waited_for() -> None:
    kernel = Kernel()
    late, early = DelayedWork(lambda: None), DelayedWork(lambda: None)
    kernel.run(schedule_delayed_work, late, 3600 * HZ)
    until(lambda: kernel.system_wq.idle, "its thread is idle")
    kernel.run(schedule_delayed_work, early, 1)
    until(lambda: early.queue is None, "it has run")
    kernel.run(flush_work, early)
    assert kernel.run(cancel_delayed_work_sync, late)
    kernel.close()
    assert kernel.reports == []


def test_a_delayed_work_runs_at_its_time(kernel: Kernel, clock: StillClock) -> None:
    times = []
    work, busy, go = DelayedWork(lambda: times.append(clock.jiffies)), Completion(), Completion()

    def blocks() -> None:
        complete(busy)
        wait_for_completion(go)

    blocker = Work(blocks)

    def driver() -> list[bool]:
        # Its time comes while another work has the only thread.
        schedule_work(blocker)
        queued = [schedule_delayed_work(work, 6 * HZ), schedule_delayed_work(work, 1)]
        wait_for_completion(busy)
        return queued

    assert kernel.run(driver) == [True, False]
    clock.await_timer(6)
    clock.advance(5)
    kernel.run(flush_work, work)
    assert times == []
    clock.expire(1)
    kernel.run(flush_work, work)
    assert times == [6 * HZ]
    kernel.run(complete, go)
    kernel.run(flush_work, blocker)


def test_the_earlier_of_two_delayed_works_is_first(kernel: Kernel, clock: StillClock) -> None:
    order: list[str] = []
    late, early = DelayedWork(lambda: order.append("late")), DelayedWork(lambda: order.append("early"))
    kernel.run(schedule_delayed_work, late, 2 * HZ)
    kernel.run(schedule_delayed_work, early, HZ)
    for work in (early, late):
        clock.expire(1)
        kernel.run(flush_work, work)
    assert order == ["early", "late"]


def test_a_work_without_delay_runs_at_once(kernel: Kernel) -> None:
    ran: list[int] = []
    work = DelayedWork(lambda: ran.append(1))
    kernel.run(schedule_delayed_work, work, 0)
    kernel.run(flush_work, work)
    assert ran == [1]


def test_a_work_that_queues_itself_is_stopped_for_good(kernel: Kernel, clock: StillClock) -> None:
    begun, go, results = Completion(), Completion(), list[bool]()

    def again() -> None:
        complete(begun)
        wait_for_completion(go)
        results.append(schedule_delayed_work(work, HZ))

    work = DelayedWork(again)
    kernel.run(schedule_delayed_work, work, HZ)
    clock.expire(1)
    kernel.run(wait_for_completion, begun)
    thread = kernel.thread(lambda: cancel_delayed_work_sync(work), "cancels")
    until(lambda: work.cancelling, "it is being cancelled")
    kernel.run(complete, go)
    assert thread.join() is False
    assert results == [False]
    assert work.queue is None


def test_what_has_not_begun_is_cancelled(kernel: Kernel, clock: StillClock) -> None:
    work = DelayedWork(lives.divide)

    def driver() -> list[bool]:
        schedule_delayed_work(work, HZ)
        return [cancel_delayed_work_sync(work), cancel_delayed_work_sync(work)]

    assert kernel.run(driver) == [True, False]
    # Nor is a thread that slept for it due then, though it may not have woken yet.
    assert clock.timers == []
    clock.advance(1)
    assert kernel.run(schedule_work, Work(lambda: None))
    assert found(kernel) == []


def test_a_queue_of_ones_own_is_empty_when_it_ends(kernel: Kernel) -> None:
    ran: list[int] = []

    def driver() -> None:
        queue = alloc_workqueue("own")
        for number in range(5):
            queue_work(queue, Work(lambda number=number: ran.append(number)))
        work = DelayedWork(lambda: ran.append(-1))
        queue_delayed_work(queue, work, HZ)
        cancel_delayed_work_sync(work)
        destroy_workqueue(queue)

    kernel.run(driver)
    assert sorted(ran) == [0, 1, 2, 3, 4]
    assert [thread for thread in kernel.threads if "own" in str(thread)] == []
    assert found(kernel) == []


def test_a_queue_destroyed_with_a_delayed_work(kernel: Kernel) -> None:
    kernel.run(lives.destroy_with_delayed_work)
    assert found(kernel) == [(ReportKind.WORK_PENDING, bug_in(lives.destroy_with_delayed_work))]


@pytest.mark.parametrize("name", ["flush", "cancel"])
def test_a_work_that_waits_for_itself(kernel: Kernel, name: str) -> None:
    broken = lives.WaitsForItself()
    work = {"flush": broken.flushed, "cancel": broken.cancelled}[name]
    kernel.run(schedule_work, work)
    until(lambda: kernel.crashed, "it is found")
    assert found(kernel) == [(ReportKind.DEADLOCK, bug_in(getattr(lives.WaitsForItself, name)))]


def test_waiting_for_a_work_with_the_mutex_that_it_wants(kernel: Kernel) -> None:
    mutex = Mutex("state")

    def work_function() -> None:
        with mutex:
            pass

    def driver() -> None:
        work = Work(work_function)
        with mutex:
            schedule_work(work)
            flush_work(work)

    with pytest.raises(Oops) as caught:
        kernel.run(driver)
    assert caught.value.report.kind is ReportKind.DEADLOCK


def test_joining_a_thread_that_joins_back(kernel: Kernel) -> None:
    threads: list[KThread] = []
    both = Completion()

    def joins(other: int) -> None:
        wait_for_completion(both)
        threads[other].join()

    threads += [kernel.thread(lambda: joins(1), "one"), kernel.thread(lambda: joins(0), "two")]
    kernel.run(complete_all, both)
    with pytest.raises(Oops) as caught:
        threads[0].join()
    assert caught.value.report.kind is ReportKind.DEADLOCK


@pytest.mark.parametrize(
    ("start", "kind", "bug"),
    [
        (lives.crash_as_work, ReportKind.NULL_POINTER, lives.null_pointer),
        (lives.refuse_as_work, ReportKind.CRASH, lives.refuse),
    ],
)
def test_what_a_work_lets_out_is_the_end(
    kernel: Kernel, start: Callable[[], Work], kind: ReportKind, bug: Callable[[], None]
) -> None:
    kernel.run(start)
    until(lambda: kernel.crashed, "it has crashed")
    assert found(kernel) == [(kind, bug_in(bug))]


def test_a_work_that_keeps_a_lock(kernel: Kernel) -> None:
    mutex = Mutex("kept")

    def driver() -> None:
        work = Work(mutex.take)
        schedule_work(work)
        flush_work(work)

    kernel.run(driver)
    assert [kind for kind, _ in found(kernel)] == [ReportKind.LOCK_HELD]


def test_a_module_that_forgets_its_work(kernel: Kernel, clock: StillClock) -> None:
    module = kernel.load(lives.LeavesWork)
    kernel.unload(module)
    assert found(kernel) == [(ReportKind.WORK_PENDING, bug_in(lives.LeavesWork.init))]
    assert module.work.queue is None
