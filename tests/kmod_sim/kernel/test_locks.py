# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Mutexes and spinlocks: what they keep apart, and every misuse named by its line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ihsm_kmod.kernel.clock import StillClock
from ihsm_kmod.kernel.completion import complete, wait_for_completion
from ihsm_kmod.kernel.errors import Oops
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.mutex import Mutex, mutex_is_locked, mutex_lock, mutex_trylock, mutex_unlock
from ihsm_kmod.kernel.report import ReportKind
from ihsm_kmod.kernel.spinlock import SpinLock, spin_bh, spin_irqsave
from ihsm_kmod.kernel.task import in_atomic, in_hardirq, in_interrupt, in_softirq
from support.broken_drivers import bug_in
from support.broken_drivers.lives import wait_for_nobody
from support.broken_drivers.locks import Driver
from support.waiting import until

Step = Callable[[Driver], None]


def found(kernel: Kernel) -> list[tuple[ReportKind, str]]:
    return [(report.kind, report.where) for report in kernel.reports]


def test_one_task_at_a_time_has_a_mutex(kernel: Kernel) -> None:
    mutex, inside = Mutex("m"), []

    def work() -> None:
        for _ in range(200):
            with mutex:
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    for thread in [kernel.thread(work, f"worker{number}") for number in range(3)]:
        thread.join()
    assert found(kernel) == []


def test_who_waits_for_a_lock_has_it_next(kernel: Kernel) -> None:
    mutex, order = Mutex("m"), []

    def second() -> None:
        with mutex:
            order.append("second")

    def first() -> None:
        with mutex:
            thread = kernel.thread(second, "second")
            until(lambda: any(task.waits_for is mutex for task in tuple(kernel.tasks)), "second waits")
            order.append("first")
        thread.join()

    kernel.run(first)
    assert order == ["first", "second"]


def test_trylock_does_not_wait(kernel: Kernel) -> None:
    mutex = Mutex("m")

    def tries() -> list[bool]:
        results = [mutex_trylock(mutex), mutex_is_locked(mutex), mutex_trylock(mutex)]
        mutex_unlock(mutex)
        return [*results, mutex_is_locked(mutex)]

    assert kernel.run(tries) == [True, True, False, False]
    assert found(kernel) == []


def test_the_context_of_each_lock(kernel: Kernel) -> None:
    plain, halves, handlers = SpinLock("plain"), SpinLock("halves"), SpinLock("handlers")

    def context() -> tuple[bool, ...]:
        return in_atomic(), in_interrupt(), in_softirq(), in_hardirq()

    def all_of_them() -> list[tuple[bool, ...]]:
        seen = [context()]
        with plain:
            seen.append(context())
        with spin_bh(halves):
            seen.append(context())
        with spin_irqsave(handlers):
            with spin_irqsave(plain):
                pass
            seen.append(context())
        return [*seen, context()]

    assert kernel.run(all_of_them) == [
        (False, False, False, False),
        (True, False, False, False),
        (True, True, True, False),
        (True, False, False, False),
        (False, False, False, False),
    ]
    assert found(kernel) == []


@pytest.mark.parametrize(
    "step",
    [
        Driver.sleep_with_spinlock,
        Driver.mutex_with_spinlock,
        Driver.sleep_without_bottom_halves,
        Driver.sleep_in_handler,
        Driver.sleep_in_tasklet,
    ],
)
def test_sleeping_in_atomic_context(kernel: Kernel, step: Step) -> None:
    kernel.run(step, Driver())
    assert found(kernel) == [(ReportKind.SLEEP_IN_ATOMIC, bug_in(step))]


def test_the_lock_that_forbids_to_sleep_is_named(kernel: Kernel) -> None:
    kernel.run(Driver.sleep_with_spinlock, Driver())
    (report,) = kernel.reports
    assert report.text.startswith("with SpinLock ring held since locks.py:")


@pytest.mark.parametrize(
    ("step", "bug"), [(Driver.mutex_twice, Driver.locked_again), (Driver.spinlock_twice, Driver.spinlock_twice)]
)
def test_a_lock_taken_twice_is_the_end(kernel: Kernel, step: Step, bug: Step) -> None:
    with pytest.raises(Oops):
        kernel.run(step, Driver())
    assert found(kernel) == [(ReportKind.RECURSIVE_LOCK, bug_in(bug))]
    with pytest.raises(Oops):
        kernel.run(Driver.safe_of_tasklets, Driver())


def test_a_second_lock_of_a_class_is_a_warning(kernel: Kernel) -> None:
    kernel.run(Driver.second_of_a_class, Driver())
    assert found(kernel) == [(ReportKind.RECURSIVE_LOCK, bug_in(Driver.second_of_a_class))]
    assert kernel.crashed is None


def test_a_deadlock_ends_the_kernel_and_all_its_tasks(kernel: Kernel) -> None:
    driver = Driver()
    threads = [
        kernel.thread(driver.state_then_queue, "one"),
        kernel.thread(driver.queue_then_state, "two"),
        kernel.thread(wait_for_nobody, "three"),
    ]
    for thread in threads:
        with pytest.raises(Oops) as caught:
            thread.join()
        assert caught.value.report.kind is ReportKind.DEADLOCK
    inversion, deadlock = kernel.reports
    places = {bug_in(Driver.state_then_queue), bug_in(Driver.queue_then_state)}
    assert inversion.kind is ReportKind.LOCK_INVERSION
    assert deadlock.where in places
    assert "one/" in deadlock.text
    assert "two/" in deadlock.text
    assert kernel.crashed is not None
    assert kernel.crashed.report is deadlock


def test_a_deadlock_through_a_call_that_a_test_makes_from_within_another(kernel: Kernel) -> None:
    driver = Driver()

    def other() -> None:
        with driver.queue:
            complete(driver.first)
            mutex_lock(driver.state)

    def inner() -> None:
        wait_for_completion(driver.first)
        mutex_lock(driver.queue)

    def outer() -> None:
        with driver.state:
            kernel.thread(other, "other")
            kernel.run(inner)

    with pytest.raises(Oops) as caught:
        kernel.run(outer)
    assert caught.value.report.kind is ReportKind.DEADLOCK


def test_an_order_that_could_deadlock_is_told_before_it_does(kernel: Kernel) -> None:
    driver = Driver()
    for step in (driver.ring_then_tags, driver.tags_then_ring, driver.tags_then_ring):
        kernel.run(step)
    assert found(kernel) == [(ReportKind.LOCK_INVERSION, bug_in(Driver.tags_then_ring))]


def test_an_order_over_a_third_lock(kernel: Kernel) -> None:
    driver = Driver()
    kernel.run(driver.state_then_ring_then_tags)
    kernel.run(driver.tags_then_state)
    assert found(kernel) == [(ReportKind.LOCK_INVERSION, bug_in(Driver.tags_then_state))]
    assert "ring after state" in kernel.reports[0].text
    assert "tags after ring" in kernel.reports[0].text


@pytest.mark.parametrize(
    ("in_interrupt", "outside", "kind"),
    [
        (Driver.tasklet, Driver.unsafe_in_task, ReportKind.SOFTIRQ_UNSAFE),
        (Driver.handler, Driver.unsafe_of_handlers, ReportKind.HARDIRQ_UNSAFE),
    ],
)
def test_a_lock_that_an_interrupt_takes_as_well(
    kernel: Kernel, in_interrupt: Step, outside: Step, kind: ReportKind
) -> None:
    driver = Driver()
    for step in (in_interrupt, outside, outside):
        kernel.run(step, driver)
    assert found(kernel) == [(kind, bug_in(outside))]


@pytest.mark.parametrize(
    ("in_interrupt", "outside"),
    [(Driver.tasklet, Driver.safe_of_tasklets), (Driver.handler, Driver.safe_of_handlers)],
)
def test_a_lock_that_keeps_interrupts_off(kernel: Kernel, in_interrupt: Step, outside: Step) -> None:
    driver = Driver()
    for step in (in_interrupt, outside, in_interrupt):
        kernel.run(step, driver)
    assert found(kernel) == []


def test_a_lock_given_back_by_another_task(kernel: Kernel) -> None:
    driver = Driver()

    def holds() -> None:
        mutex_lock(driver.state)
        kernel.run(driver.give_of_another)

    kernel.run(holds)
    assert found(kernel) == [(ReportKind.BAD_UNLOCK, bug_in(Driver.give_of_another))]
    assert not mutex_is_locked(driver.state)


def test_a_lock_given_back_twice(kernel: Kernel) -> None:
    kernel.run(Driver.give_twice, Driver())
    assert found(kernel) == [(ReportKind.BAD_UNLOCK, bug_in(Driver.give_twice))]


def test_a_lock_held_on_the_way_out(kernel: Kernel) -> None:
    kernel.run(Driver.take, Driver())
    assert found(kernel) == [(ReportKind.LOCK_HELD, bug_in(Driver.take))]


@pytest.mark.parametrize("step", [Driver.return_without_bottom_halves, Driver.return_without_interrupts])
def test_interrupts_disabled_on_the_way_out(kernel: Kernel, step: Step) -> None:
    kernel.run(step, Driver())
    assert [kind for kind, _ in found(kernel)] == [ReportKind.LOCK_HELD]


def test_a_lock_whose_owner_is_gone_hangs_who_wants_it() -> None:
    kernel, driver = Kernel(clock := StillClock(), hung_task_s=60), Driver()
    kernel.run(driver.take)
    thread = kernel.thread(driver.take, "next")
    until(lambda: any(task.waits_for is driver.state for task in tuple(kernel.tasks)), "the next task waits")
    clock.advance(60)
    with pytest.raises(Oops, match=r"hung|too long") as caught:
        thread.join()
    assert caught.value.report.kind is ReportKind.HUNG_TASK
    assert caught.value.report.where == bug_in(Driver.take)
    kernel.close()


def test_any_warning_may_be_the_end() -> None:
    kernel = Kernel(panic_on_warn=True)
    with pytest.raises(Oops):
        kernel.run(Driver.sleep_with_spinlock, Driver())
    assert found(kernel) == [(ReportKind.SLEEP_IN_ATOMIC, bug_in(Driver.sleep_with_spinlock))]
    kernel.close()
    assert found(kernel)[1:] == []
