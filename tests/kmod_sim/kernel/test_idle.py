# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whether anything of a kernel runs: what who moves its clock must know."""

from __future__ import annotations

import threading

from ihsm_kmod.kernel.clock import StillClock
from ihsm_kmod.kernel.completion import Completion, complete, wait_for_completion
from ihsm_kmod.kernel.interrupt import Tasklet, tasklet_schedule
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.wait import msleep
from support.waiting import HANG_S, until


def test_a_kernel_without_tasks(kernel: Kernel) -> None:
    assert kernel.is_idle


def test_a_task_that_sleeps_is_idle_until_it_is_woken(kernel: Kernel) -> None:
    completion = Completion()
    runs, may_end = threading.Event(), threading.Event()

    def work() -> None:
        wait_for_completion(completion)
        runs.set()
        may_end.wait(HANG_S)

    thread = kernel.thread(work, "worker")
    until(lambda: kernel.sched.asleep == 1, "it sleeps")
    assert kernel.is_idle
    kernel.run(complete, completion)
    assert runs.wait(HANG_S)
    assert not kernel.is_idle
    may_end.set()
    thread.join()
    until(lambda: kernel.is_idle, "it has ended")


def test_whom_the_clock_has_woken_is_not_idle_before_it_has_looked(kernel: Kernel, clock: StillClock) -> None:
    thread = kernel.thread(lambda: msleep(1000), "sleeper")
    clock.await_timer(1)
    until(lambda: kernel.is_idle, "it sleeps")
    with kernel.sched.lock:  # nobody can look
        kernel.sched.wake()
        assert kernel.sched.asleep == 0
        assert not kernel.is_idle
    until(lambda: kernel.is_idle, "it has looked, and sleeps again")
    clock.expire(1)
    thread.join()


def test_a_tasklet_that_runs(kernel: Kernel) -> None:
    runs, may_end = threading.Event(), threading.Event()

    def work(data: object) -> None:
        runs.set()
        may_end.wait(HANG_S)

    kernel.run(tasklet_schedule, Tasklet(work, None))
    assert runs.wait(HANG_S)
    assert not kernel.is_idle
    may_end.set()
    until(lambda: kernel.is_idle, "it has ended")
