# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Completions and wait queues, and what ends a sleep."""

from __future__ import annotations

import errno

import pytest

from ihsm_kmod.kernel.clock import HZ, StillClock
from ihsm_kmod.kernel.completion import (
    Completion,
    complete,
    complete_all,
    completion_done,
    reinit_completion,
    wait_for_completion,
    wait_for_completion_timeout,
)
from ihsm_kmod.kernel.errors import ERESTARTSYS, Errno, Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.process import Process
from ihsm_kmod.kernel.report import ReportKind
from ihsm_kmod.kernel.task import current, signal_pending
from ihsm_kmod.kernel.wait import (
    WaitQueueHead,
    wait_event,
    wait_event_interruptible,
    wait_event_timeout,
    wake_up,
    wake_up_all,
)
from support.broken_drivers import bug_in
from support.broken_drivers.lives import wait_for_nobody
from support.waiting import until


def test_a_completion_is_for_one_waiter(kernel: Kernel) -> None:
    completion = Completion()

    def twice() -> list[object]:
        complete(completion)
        wait_for_completion(completion)
        return [completion_done(completion), wait_for_completion_timeout(completion, 0)]

    assert kernel.run(twice) == [False, 0]


def test_complete_all_is_for_all_until_it_is_made_new(kernel: Kernel) -> None:
    completion = Completion()

    def many() -> list[bool]:
        complete_all(completion)
        for _ in range(3):
            wait_for_completion(completion)
        before = completion_done(completion)
        reinit_completion(completion)
        return [before, completion_done(completion)]

    assert kernel.run(many) == [True, False]


def test_another_task_completes(kernel: Kernel, clock: StillClock) -> None:
    completion = Completion()
    thread = kernel.thread(lambda: wait_for_completion_timeout(completion, 5 * HZ), "waiter")
    clock.await_timer(5)
    clock.advance(2)
    kernel.run(complete, completion)
    assert thread.join() == 3 * HZ


def test_a_time_out(kernel: Kernel, clock: StillClock) -> None:
    thread = kernel.thread(lambda: wait_for_completion_timeout(Completion(), 30 * HZ), "waiter")
    clock.expire(30)
    assert thread.join() == 0


def test_what_comes_at_the_last_moment_leaves_a_jiffy(kernel: Kernel, clock: StillClock) -> None:
    completion = Completion()

    def late() -> int:
        complete(completion)
        return wait_for_completion_timeout(completion, 0)

    assert kernel.run(late) == 1


def test_a_condition_is_looked_at_when_somebody_wakes(kernel: Kernel, clock: StillClock) -> None:
    queue, items = WaitQueueHead(), list[int]()
    threads = [
        kernel.thread(lambda: wait_event(queue, lambda: 1 in items), "plain"),
        kernel.thread(lambda: wait_event_timeout(queue, lambda: 2 in items, 8 * HZ), "timed"),
        kernel.thread(lambda: wait_event_interruptible(queue, lambda: 3 in items), "interruptible"),
    ]
    clock.await_timer(8)
    for number, wake in ((1, wake_up), (2, wake_up), (3, wake_up_all)):
        items.append(number)
        kernel.run(wake, queue)
        assert threads[number - 1].join() == (8 * HZ if number == 2 else None)


def test_a_condition_may_take_locks_of_its_own_and_sleep(kernel: Kernel, clock: StillClock) -> None:
    queue, first, second = WaitQueueHead(), Completion(), Completion()

    def condition() -> bool:
        wait_for_completion(first)
        return second.done > 0

    thread = kernel.thread(lambda: wait_event(queue, condition), "waiter")
    kernel.run(complete_all, first)
    kernel.run(complete, second)
    thread.join()


def test_only_an_interruptible_sleep_ends_with_a_signal(kernel: Kernel, clock: StillClock) -> None:
    process, queue, completion = Process(kernel), WaitQueueHead(), Completion()

    def interruptible() -> tuple[int, bool]:
        with pytest.raises(Errno) as caught:
            wait_event_interruptible(queue, lambda: False)
        return caught.value.errno, signal_pending()

    thread = kernel.thread(lambda: kernel.run(interruptible, process=process), "app")
    until(lambda: any(task.process is process for task in tuple(kernel.tasks)), "the call has begun")
    for task in [task for task in tuple(kernel.tasks) if task.process is process]:
        task.signalled = True
    kernel.sched.wake()
    assert thread.join() == (ERESTARTSYS, True)

    def uninterruptible() -> int:
        current().signalled = True
        return wait_for_completion_timeout(completion, 10)

    thread = kernel.thread(lambda: kernel.run(uninterruptible, process=process), "app")
    clock.await_timer(10 / HZ)
    kernel.run(complete, completion)
    assert thread.join() == 10


def test_a_task_that_sleeps_for_too_long_hangs(kernel: Kernel, clock: StillClock) -> None:
    thread = kernel.thread(wait_for_nobody, "hangs")
    until(lambda: len(kernel.tasks) == 1, "it sleeps")
    clock.advance(119.9)
    assert not thread.is_done
    clock.advance(0.2)
    until(lambda: kernel.crashed or clock.advance(120), "it is found")
    with pytest.raises(Oops):
        thread.join()
    (report,) = kernel.reports
    assert (report.kind, report.where) == (ReportKind.HUNG_TASK, bug_in(wait_for_nobody))


def test_a_sleep_with_an_end_hangs_only_if_that_is_later(kernel: Kernel, clock: StillClock) -> None:
    threads = [
        kernel.thread(lambda: wait_for_completion_timeout(Completion(), 120 * HZ), "ends"),
        kernel.thread(lambda: wait_for_completion_timeout(Completion(), 121 * HZ), "hangs"),
    ]
    clock.await_timer(121)
    clock.expire(120)
    with pytest.raises(Oops):
        threads[1].join()
    assert [report.task.partition("/")[0] for report in kernel.reports] == ["hangs"]


def test_an_errno_has_a_name() -> None:
    assert str(Errno(errno.ENODEV)) == "ENODEV: No such device"
    assert str(Errno(ERESTARTSYS, "signal")) == "ERESTARTSYS: signal"
