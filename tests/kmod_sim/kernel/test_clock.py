# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Time: one that stands still until it is moved, and the one of the system."""

from __future__ import annotations

from functools import partial

import pytest

from ihsm_kmod.kernel.clock import HZ, JIFFY_NS, StillClock, SystemClock
from ihsm_kmod.kernel.errors import Oops
from ihsm_kmod.kernel.jiffies import jiffies, ktime_get_ns, msecs_to_jiffies, time_after
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.report import ReportKind
from ihsm_kmod.kernel.wait import msleep
from support.broken_drivers import bug_in
from support.broken_drivers.lives import wait_for_nobody


@pytest.mark.parametrize(
    ("milliseconds", "expected"), [(0, 0), (1, 1), (4, 1), (5, 2), (100, 25), (6000, 1500), (30000, 7500)]
)
def test_milliseconds_last_at_least_so_long(milliseconds: int, expected: int) -> None:
    assert msecs_to_jiffies(milliseconds) == expected


def test_later_is_after() -> None:
    assert [time_after(5, 4), time_after(5, 5), time_after(4, 5)] == [True, False, False]


def test_a_driver_sees_the_kernels_clock(kernel: Kernel, clock: StillClock) -> None:
    clock.advance(2.5)
    assert kernel.run(jiffies) == 2.5 * HZ
    assert kernel.run(ktime_get_ns) == 2_500_000_000


def test_a_sleeper_wakes_at_its_jiffy_and_not_before(kernel: Kernel, clock: StillClock) -> None:
    clock.advance(0.001)
    thread = kernel.thread(lambda: (msleep(6000), jiffies())[1], "sleeper")
    clock.await_timer(6)
    clock.advance(5.9)
    assert not thread.is_done
    clock.expire(0.1)
    assert thread.join() == 6 * HZ
    assert clock.now_ns() == 6 * HZ * JIFFY_NS


def test_several_that_are_due_at_once(kernel: Kernel, clock: StillClock) -> None:
    threads = [kernel.thread(lambda: msleep(6000), "sleeper")]
    clock.await_timer(6)
    threads += [kernel.thread(lambda: msleep(6000), "sleeper") for _ in range(2)]
    clock.expire(6, 3)
    for thread in threads:
        thread.join()
    with pytest.raises(TimeoutError):
        StillClock(patience_s=0).await_timer(6, 1)


def test_what_is_due_instead_is_named(kernel: Kernel) -> None:
    clock = StillClock(patience_s=0)
    with pytest.raises(TimeoutError, match="nothing is due in 1 s, but: nothing at all"):
        clock.await_timer(1)
    clock.add_timer(30 * HZ)
    with pytest.raises(TimeoutError, match="nothing is due in 1 s, but: 30 s"):
        clock.await_timer(1)
    clock.remove_timer(30 * HZ)
    with pytest.raises(TimeoutError, match="nothing at all"):
        clock.await_timer(30)


def test_a_clock_that_nobody_moves_ends_who_sleeps() -> None:
    kernel = Kernel(StillClock(patience_s=0))
    with pytest.raises(Oops, match="nobody moves the clock") as caught:
        kernel.run(wait_for_nobody)
    assert caught.value.report.kind is ReportKind.HUNG_TASK
    assert caught.value.report.where == bug_in(wait_for_nobody)
    kernel.close()


def test_kernels_may_share_a_clock(clock: StillClock) -> None:
    kernels = [Kernel(clock), Kernel(clock)]
    threads = [kernels[number].thread(partial(msleep, 1000 * (number + 1)), "sleeper") for number in range(2)]
    clock.await_timer(1)
    clock.expire(2)
    for thread in threads:
        thread.join()
    for kernel in kernels:
        kernel.close()


def test_the_systems_clock_runs_by_itself() -> None:
    clock = SystemClock()
    kernel = Kernel(clock)
    before = clock.jiffies
    kernel.run(msleep, 20)
    assert clock.jiffies >= before + 5
    kernel.close()


def test_a_task_hangs_by_the_systems_clock() -> None:
    kernel = Kernel(hung_task_s=0.01)
    with pytest.raises(Oops) as caught:
        kernel.run(wait_for_nobody)
    assert caught.value.report.kind is ReportKind.HUNG_TASK
    kernel.close()
