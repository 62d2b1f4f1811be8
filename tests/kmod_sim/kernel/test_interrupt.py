# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Interrupts reach their handlers, tasklets run after them, and whoever ends either waits for it."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator
from typing import cast

import pytest

from ihsm_kmod.kernel.completion import Completion, complete, wait_for_completion
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.interrupt import (
    IRQ_HANDLED,
    IRQ_NONE,
    Handler,
    Tasklet,
    free_irq,
    request_irq,
    tasklet_kill,
    tasklet_schedule,
)
from ihsm_kmod.kernel.kernel import Kernel
from ihsm_kmod.kernel.pci import pci_alloc_irq_vectors, pci_free_irq_vectors, pci_irq_vector
from ihsm_kmod.kernel.report import ReportKind
from ihsm_kmod.kernel.task import current, in_hardirq, in_interrupt, in_softirq
from ihsm_kmod.kernel.wait import msleep
from support.broken_drivers import bug_in
from support.fake_function import FakeFunction
from support.pci_drivers import Bench, running
from support.waiting import HANG_S, ended, together, until

VECTORS = 4


@pytest.fixture
def vectors(bench: Bench) -> Iterator[Bench]:
    bench.run(pci_alloc_irq_vectors, bench.pdev, 1, VECTORS)
    yield bench
    bench.run(pci_free_irq_vectors, bench.pdev)


def irq_of(bench: Bench, vector: int) -> int:
    return bench.run(pci_irq_vector, bench.pdev, vector)


def test_a_message_calls_its_own_handler_with_its_number_and_data(vectors: Bench) -> None:
    seen: list[tuple[int, object, bool, str]] = []
    called = Completion()

    def handler(irq: int, dev_id: object) -> int:
        seen.append((irq, dev_id, in_hardirq() and in_interrupt(), current().comm))
        complete(called)
        return IRQ_HANDLED

    irqs = [irq_of(vectors, vector) for vector in range(VECTORS)]
    assert len(set(irqs)) == VECTORS
    queues = [[vector] for vector in range(VECTORS)]
    for irq, queue in zip(irqs, queues, strict=True):
        vectors.run(request_irq, irq, handler, "toy", queue)
    assert vectors.function.raise_interrupt(2)
    vectors.run(wait_for_completion, called)
    assert seen == [(irqs[2], queues[2], True, "swapper/0")]
    until(lambda: vectors.kernel.interrupts.count(irqs[2]) == 1, "the count")
    for irq, queue in zip(irqs, queues, strict=True):
        vectors.run(free_irq, irq, queue)


def test_a_message_that_comes_before_its_handler_is_kept(vectors: Bench) -> None:
    called = Completion()
    assert vectors.function.raise_interrupt(1)
    vectors.run(request_irq, irq_of(vectors, 1), lambda irq, dev_id: complete(called) or IRQ_HANDLED, "toy", vectors)
    vectors.run(wait_for_completion, called)
    vectors.run(free_irq, irq_of(vectors, 1), vectors)


def test_a_vector_has_one_handler(vectors: Bench) -> None:
    irq = irq_of(vectors, 0)
    vectors.run(request_irq, irq, lambda irq, dev_id: IRQ_NONE, "toy", vectors)
    with pytest.raises(Errno, match="'toy' handles") as error:
        vectors.run(request_irq, irq, lambda irq, dev_id: IRQ_NONE, "another", vectors)
    assert error.value.errno == errno.EBUSY
    vectors.run(free_irq, irq, vectors)


@pytest.mark.parametrize("irq", [0, 10_000])
def test_there_must_be_such_an_interrupt(vectors: Bench, irq: int) -> None:
    with pytest.raises(Errno) as error:
        vectors.run(request_irq, irq, lambda irq, dev_id: IRQ_NONE, "toy", vectors)
    assert error.value.errno == errno.EINVAL


def test_a_tasklet_runs_after_the_handler_that_schedules_it_and_once(vectors: Bench) -> None:
    order: list[str] = []
    done = Completion()

    def work(data: object) -> None:
        order.append(f"{data}, softirq {in_softirq()}, hardirq {in_hardirq()}")
        complete(done)

    tasklet = Tasklet(work, "drain")

    def handler(irq: int, dev_id: object) -> int:
        tasklet_schedule(tasklet)
        tasklet_schedule(tasklet)
        order.append("handler")
        return IRQ_HANDLED

    vectors.run(request_irq, irq_of(vectors, 0), handler, "toy", vectors)
    vectors.function.raise_interrupt(0)
    vectors.run(wait_for_completion, done)
    vectors.run(free_irq, irq_of(vectors, 0), vectors)
    vectors.run(tasklet_kill, tasklet)
    assert order == ["handler", "drain, softirq True, hardirq False"]


def test_a_tasklet_may_be_scheduled_by_a_task_and_by_itself(bench: Bench) -> None:
    done = Completion()
    runs: list[object] = []

    def work(data: object) -> None:
        runs.append(data)
        if len(runs) < 3:
            tasklet_schedule(tasklet)
        else:
            complete(done)

    tasklet = Tasklet(work, 7)
    bench.run(tasklet_schedule, tasklet)
    bench.run(wait_for_completion, done)
    bench.run(tasklet_kill, tasklet)
    assert runs == [7, 7, 7]


def test_free_irq_waits_for_the_handler_and_tasklet_kill_for_the_tasklet(vectors: Bench) -> None:
    # Gates of the test, not of the kernel: whoever is in a handler cannot sleep.
    begun, gate = threading.Event(), threading.Event()
    events: list[str] = []

    def slowly(what: str) -> None:
        begun.set()
        assert gate.wait(HANG_S)
        events.append(what)

    def handler(irq: int, dev_id: object) -> int:
        slowly("handler")
        return IRQ_HANDLED

    tasklet = Tasklet(lambda data: slowly("tasklet"), None)
    irq = irq_of(vectors, 0)
    vectors.run(request_irq, irq, handler, "toy", vectors)
    for start, end in (
        (lambda: vectors.function.raise_interrupt(0), lambda: free_irq(irq, vectors)),
        (lambda: vectors.run(tasklet_schedule, tasklet), lambda: tasklet_kill(tasklet)),
    ):
        begun.clear()
        gate.clear()
        start()
        assert begun.wait(HANG_S)
        ending = vectors.kernel.thread(lambda end=end: (end(), events.append("ended")), "rmmod")  # type: ignore[misc]
        until(lambda ending=ending: ending.owner is None or ending.owner.waits_for, "who ends it")  # type: ignore[misc]
        gate.set()
        ending.join()
    assert events == ["handler", "ended", "tasklet", "ended"]


def test_an_interrupt_that_is_freed_is_not_handled_any_more(vectors: Bench) -> None:
    calls: list[int] = []
    done = Completion()
    irq = irq_of(vectors, 0)
    vectors.run(request_irq, irq, lambda irq, dev_id: calls.append(irq) or IRQ_HANDLED, "toy", vectors)
    vectors.run(free_irq, irq, vectors)
    vectors.function.raise_interrupt(0)
    tasklet = Tasklet(lambda data: complete(done), None)
    vectors.run(tasklet_schedule, tasklet)
    vectors.run(wait_for_completion, done)
    assert calls == []


class Broken:
    """Handlers that do what none may."""

    def sleeps(self, irq: int, dev_id: object) -> int:
        msleep(0)  # BUG
        return IRQ_HANDLED

    def tells_nothing(self, irq: int, dev_id: object) -> int:
        return None  # type: ignore[return-value]

    def fails(self, irq: int, dev_id: object) -> int:
        raise Errno(errno.EIO)  # BUG

    def divides(self, irq: int, dev_id: object) -> int:
        return irq // 0  # BUG

    def frees_itself(self, irq: int, dev_id: object) -> int:
        free_irq(irq, dev_id)  # BUG
        return IRQ_HANDLED


def handled(handler: Handler) -> tuple[list[tuple[ReportKind, str]], bool]:
    """Reports after one interrupt, and whether the kernel has crashed."""
    with FakeFunction() as function, running() as kernel:
        bench = Bench(kernel, function)
        bench.run(pci_alloc_irq_vectors, bench.pdev, 1, 1)
        irq = irq_of(bench, 0)
        kernel.run(request_irq, irq, handler, "toy", bench)  # HERE
        function.raise_interrupt(0)
        until(lambda: kernel.crashed or kernel.interrupts.count(irq), "the handler")
        until(lambda: kernel.reports, "the report")
        reports = [(report.kind, report.where) for report in kernel.reports]
        crashed = kernel.crashed is not None
        kernel.sched.halt(kernel.reports[0])
        kernel.reports.clear()
    return reports, crashed


def test_a_handler_must_not_sleep() -> None:
    handler = Broken().sleeps
    assert handled(handler) == ([(ReportKind.SLEEP_IN_ATOMIC, bug_in(handler))], False)


def test_a_handler_says_whether_the_interrupt_was_its_device_s() -> None:
    assert handled(Broken().tells_nothing) == ([(ReportKind.WARN, bug_in(handled, "HERE"))], False)


@pytest.mark.parametrize(
    ("name", "kind"), [("fails", ReportKind.CRASH), ("divides", ReportKind.DIVIDE_ERROR)], ids=["error", "exception"]
)
def test_what_a_handler_raises_crashes_the_kernel(name: str, kind: ReportKind) -> None:
    handler = getattr(Broken(), name)
    assert handled(handler) == ([(kind, bug_in(handler))], True)


def test_a_handler_that_waits_for_its_own_end_is_a_deadlock() -> None:
    handler = Broken().frees_itself
    reports, crashed = handled(handler)
    assert reports == [(ReportKind.SLEEP_IN_ATOMIC, bug_in(handler)), (ReportKind.DEADLOCK, bug_in(handler))]
    assert crashed


def held() -> Counter[str]:
    """Descriptors and threads of this process."""
    return Counter(files=len(os.listdir("/proc/self/fd")), threads=threading.active_count())


@pytest.mark.parametrize("crashed", [False, True])
def test_a_kernel_leaves_no_descriptor_and_no_thread(crashed: bool) -> None:
    before = held()
    kernel = Kernel()
    with FakeFunction() as function:
        bench = Bench(kernel, function)
        bench.run(pci_alloc_irq_vectors, bench.pdev, 1, VECTORS)
        bench.run(request_irq, irq_of(bench, 0), Broken().divides, "toy", bench)
        if crashed:
            function.raise_interrupt(0)
            until(lambda: kernel.crashed, "the crash")
        kernel.close()
        kernel.close()
    assert held() <= before


def test_many_messages_while_handlers_come_and_go(vectors: Bench) -> None:
    """Nothing is handled after its handler was freed, and nothing hangs."""
    rounds, owned = 200, [False] * VECTORS
    late: list[int] = []
    stop = threading.Event()

    def handler(irq: int, dev_id: object) -> int:
        (vector,) = cast(list[int], dev_id)
        if not owned[vector]:
            late.append(vector)
        tasklet_schedule(tasklets[vector])
        return IRQ_HANDLED

    tasklets = [Tasklet(lambda data: None, None) for _ in range(VECTORS)]

    def storm() -> None:
        while not stop.is_set():
            for vector in range(VECTORS):
                vectors.function.raise_interrupt(vector)

    def work(vector: int) -> None:
        mine = [vector]
        for _ in range(rounds):
            owned[vector] = True
            vectors.run(request_irq, irq_of(vectors, vector), handler, "toy", mine)
            vectors.run(free_irq, irq_of(vectors, vector), mine)
            owned[vector] = False
        vectors.run(tasklet_kill, tasklets[vector])

    device = threading.Thread(target=storm, daemon=True)
    device.start()
    together(VECTORS, work)
    stop.set()
    ended(device)
    assert late == []
