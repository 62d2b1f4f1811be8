# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Interrupts and tasklets (linux/interrupt.h): what runs because the device says so.

One thread of each kernel stands for the CPU that the interrupts go to. It waits for the eventfds of all vectors that
have a handler. A message makes it run the *hard handler*, which must be quick and never sleeps, and then the tasklets
that were scheduled, which do the work and must not sleep either.
"""

from __future__ import annotations

import errno
import os
import select
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from ihsm.bus.function import drain_event
from ihsm_kmod.kernel.entry import check_balance
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.kthread import KThread
from ihsm_kmod.kernel.report import ReportKind, crash, might_sleep, warn, where
from ihsm_kmod.kernel.task import Core, Task, current, in_hardirq

IRQ_NONE: Final = 0
"""Result of a hard handler: the interrupt was not its device's."""
IRQ_HANDLED: Final = 1
"""Result of a hard handler: it was."""
FIRST_IRQ: Final = 24
"""Numbers below are the legacy interrupts' of a PC."""

Handler = Callable[[int, Any], int]
"""A hard handler: called with the interrupt's number and the `dev_id` that it was requested with."""


@dataclass
class _Action:
    """Who handles an interrupt (Linux: struct irqaction)."""

    handler: Handler
    name: str
    dev_id: object
    where: str


class _Vector:
    """One interrupt, which may come or not have a handler yet (Linux: struct irq_desc)."""

    def __init__(self, irq: int, event: int) -> None:
        self.irq = irq
        self.event = event
        self.action: _Action | None = None
        self.owner: Task | None = None
        """The CPU while it runs the handler."""
        self.count = 0

    def __str__(self) -> str:
        return f"the handler of interrupt {self.irq}"


class Tasklet:
    """A function that an interrupt handler leaves work to; it never runs twice at the same time."""

    def __init__(self, function: Callable[[Any], None], data: object) -> None:
        """`function` is called with `data`, on the CPU of the interrupts."""
        self.function = function
        self.data = data
        self.scheduled = False
        self.owner: Task | None = None
        """The CPU while it runs."""

    def __str__(self) -> str:
        """For reports."""
        return f"tasklet {getattr(self.function, '__qualname__', self.function)}"

    @property
    def is_idle(self) -> bool:
        """Whether it neither runs nor is to run."""
        return not self.scheduled and self.owner is None


class Interrupts:
    """All interrupts of a kernel, and the CPU that serves them."""

    def __init__(self, kernel: Core) -> None:
        """The CPU's thread begins with the first handler or tasklet."""
        self._kernel = kernel
        self._vectors: dict[int, _Vector] = {}
        self._by_event: dict[int, _Vector] = {}
        self._next = FIRST_IRQ
        self._tasklets: deque[Tasklet] = deque()
        self._tasklet_runs = False
        self._cpu: KThread | None = None
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        kernel.sched.on_halt(self._kick)

    def add(self, event: int) -> int:
        """Number of a new interrupt, which comes when the non-blocking eventfd `event` is signalled.

        What is signalled while it has no handler stays pending in the eventfd, as in the table of an MSI-X function.
        """
        with self._kernel.sched.lock:
            irq, self._next = self._next, self._next + 1
            self._vectors[irq] = self._by_event[event] = _Vector(irq, event)
        return irq

    def remove(self, irq: int) -> None:
        """The interrupt does not exist any more."""
        self.report_leak(irq)
        with self._kernel.sched.lock:
            del self._by_event[self._vectors.pop(irq).event]

    def report_leak(self, irq: int) -> None:
        """The driver lets go of its device: report a handler that it has not freed, which is never called again."""
        vector = self._vectors[irq]
        if vector.action is not None:
            text = f"'{vector.action.name}' still handles interrupt {irq}, without free_irq"
            warn(ReportKind.IRQ_LEAK, text, vector.action.where)
            self.free(vector)

    def of(self, irq: int) -> _Vector | None:
        """The interrupt of a number."""
        return self._vectors.get(irq)

    def request(self, vector: _Vector, action: _Action) -> None:
        """Give an interrupt its handler.

        Raises:
            Errno: EBUSY, it has one.
        """
        with self._kernel.sched.lock:
            if vector.action is not None:
                raise Errno(errno.EBUSY, f"'{vector.action.name}' handles interrupt {vector.irq}")
            vector.action = action
            self._start()
            self._epoll.register(vector.event, select.EPOLLIN)

    def free(self, vector: _Vector) -> None:
        """Take its handler away, and wait until it does not run any more."""
        with self._kernel.sched.lock:
            vector.action = None
            self._epoll.unregister(vector.event)
        self._kernel.sched.sleep(lambda: vector.owner is None, on=vector, waits_for=vector)

    def schedule(self, tasklet: Tasklet) -> None:
        """Have a tasklet run soon, once however often it is scheduled before it begins."""
        with self._kernel.sched.lock:
            if tasklet.scheduled:
                return
            tasklet.scheduled = True
            self._tasklets.append(tasklet)
            self._start()
        if not in_hardirq():  # behind the handler the CPU looks for tasklets anyway
            self._kick()

    @property
    def is_idle(self) -> bool:
        """Whether no message waits for its handler, and neither a handler nor a tasklet runs or is to run."""
        with self._kernel.sched.lock:
            vectors = tuple(self._vectors.values())
            events = [vector.event for vector in vectors if vector.action is not None]
            if self._tasklets or self._tasklet_runs or any(vector.owner is not None for vector in vectors):
                return False
        poll = select.poll()
        for event in events:
            poll.register(event, select.POLLIN)
        return not poll.poll(0)

    @property
    def requested(self) -> int:
        """How many have a handler."""
        with self._kernel.sched.lock:
            return sum(vector.action is not None for vector in self._vectors.values())

    @property
    def cpus(self) -> int:
        """How many tasks stand for a CPU, and so wait for messages instead of sleeping."""
        return int(self._cpu is not None)

    def count(self, irq: int) -> int:
        """How often an interrupt was handled (/proc/interrupts); 0 for one that does not exist."""
        vector = self._vectors.get(irq)
        return vector.count if vector else 0

    def close(self) -> None:
        """The kernel has ended, and its CPU with it: close what that waited for. Harmless the second time."""
        wake, self._wake = self._wake, -1
        if wake >= 0:
            self._epoll.close()
            os.close(wake)

    def _kick(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def _start(self) -> None:
        if self._cpu is None:
            self._cpu = KThread(self._kernel, self._run, "swapper/0", is_service=True)

    def _run(self) -> None:
        task = current()
        while True:
            for event, _ in self._epoll.poll():
                self._serve(task, event)
            self._run_tasklets(task)
            # The way out, once the kernel has ended: what runs next would be on a machine that stands.
            self._kernel.sched.check()

    def _serve(self, task: Task, event: int) -> None:
        """Run the hard handler of the vector that was signalled."""
        if event == self._wake:
            drain_event(event)
            return
        with self._kernel.sched.lock:
            vector = self._by_event.get(event)
            action = vector.action if vector is not None else None
            if vector is None or action is None:
                return  # freed since epoll saw it: the message stays pending
            vector.owner = task
        drain_event(event)
        try:
            result = _guarded(task, task.hardirq(), vector, action.handler, vector.irq, action.dev_id)
            if result not in (IRQ_NONE, IRQ_HANDLED):
                warn(ReportKind.WARN, f"irq event {vector.irq}: bogus return value {result!r}", action.where)
        finally:
            with self._kernel.sched.lock:
                vector.count += 1
                vector.owner = None
                self._kernel.sched.wake(vector)

    def _run_tasklets(self, task: Task) -> None:
        """Those that are scheduled now; one that schedules itself has its turn after the interrupts."""
        for _ in range(len(self._tasklets)):
            with self._kernel.sched.lock:
                tasklet = self._tasklets.popleft()
                tasklet.scheduled, tasklet.owner, self._tasklet_runs = False, task, True
            try:
                _guarded(task, task.softirq(), tasklet, tasklet.function, tasklet.data)
            finally:
                with self._kernel.sched.lock:
                    tasklet.owner, self._tasklet_runs = None, False
                    self._kernel.sched.wake(tasklet)


def _guarded(
    task: Task, context: AbstractContextManager[None], what: object, function: Callable[..., Any], *args: object
) -> Any:
    """Call a driver in a context; an error that it lets out has nowhere to go."""
    with context:
        try:
            result = function(*args)
        except Exception as error:
            crash(error)
    check_balance(task, what)
    return result


def request_irq(irq: int, handler: Handler, name: str, dev_id: object) -> None:
    """Have `handler(irq, dev_id)` called for every message of an interrupt. `name` is for people.

    Raises:
        Errno: EINVAL, no such interrupt; EBUSY, it has a handler.
    """
    might_sleep()
    interrupts = current().kernel.part(Interrupts)
    vector = interrupts.of(irq)
    if vector is None:
        raise Errno(errno.EINVAL, f"there is no interrupt {irq}")
    interrupts.request(vector, _Action(handler, name, dev_id, where()))


def free_irq(irq: int, dev_id: object) -> None:
    """Undo `request_irq`. When it returns the handler does not run and will not; its tasklet may still."""
    might_sleep()
    interrupts = current().kernel.part(Interrupts)
    vector = interrupts.of(irq)
    if vector is None or vector.action is None or vector.action.dev_id is not dev_id:
        warn(ReportKind.IRQ_FREE, f"interrupt {irq}")
        return
    interrupts.free(vector)


def tasklet_schedule(tasklet: Tasklet) -> None:
    """Have a tasklet run soon; nothing happens if it is to run anyway. Allowed in interrupt."""
    current().kernel.part(Interrupts).schedule(tasklet)


def tasklet_kill(tasklet: Tasklet) -> None:
    """Wait until a tasklet neither runs nor is to run. Whoever schedules it must have been stopped before."""
    might_sleep()
    current().kernel.sched.sleep(lambda: tasklet.is_idle, on=tasklet, waits_for=tasklet)
