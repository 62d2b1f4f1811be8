# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Threads that pull admin and HSM commands from the rings of all functions of the process and execute them.

The engine hands out at most one admin command per function at a time, so their order holds with any number of threads.
HSM commands are independent of each other; those that may take long (spec 04: RSA, key search) go to threads of their
own, so that they never hold up the others.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from ihsm_abi import logs
from ihsm_device.commands import Command, RingClass
from ihsm_device.hsm.command import Lane
from ihsm_device.scheduler import Scheduler

_log = logging.getLogger(__name__)

MAX_ADMIN_THREADS: Final = 16
"""A DELETE_SQ may wait for its queue's commands; with a thread per function it holds up nobody else."""
MAX_PYTHON_THREADS: Final = 4
"""A quick command is mostly Python: threads that hand the interpreter lock to each other cost more than they gain."""
MAX_FAST_THREADS: Final = 8
"""The express lane needs no interpreter."""
STOP_TIMEOUT_S: Final = 5.0
"""How long `stop` waits for commands at work; the threads are daemons, so a longer one ends with the process."""


class CommandHandler(Protocol):
    """The function that a command belongs to."""

    def execute_admin(self, command: Command) -> None:
        """Execute and complete an admin command."""

    def execute_hsm(self, command: Command) -> None:
        """Execute and complete an HSM command."""

    def refuse_hsm(self, command: Command) -> None:
        """Complete an HSM command for which there is no room."""

    def lane(self, command: Command) -> Lane:
        """Which threads may execute an HSM command."""


def _execute_admin(handler: CommandHandler, command: Command) -> None:
    handler.execute_admin(command)


def _execute_hsm(handler: CommandHandler, command: Command) -> None:
    handler.execute_hsm(command)


def _dispatch(handler: CommandHandler, command: Command) -> None:
    if handler.lane(command) is Lane.FAST:
        handler.execute_hsm(command)
    elif not command.engine.put_slow(command):
        handler.refuse_hsm(command)


class WorkerPool:
    """The worker threads of one process."""

    def __init__(
        self,
        scheduler: Scheduler,
        find_handler: Callable[[Command], CommandHandler | None],
        *,
        functions: int = 1,
        express: bool = False,
        fast_threads: int | None = None,
    ) -> None:
        """For a process of `functions` functions; `find_handler` gives that of a command, None if it is no more.

        With `express` there are threads for the express lane too. `fast_threads` is how many execute quick HSM
        commands, None: as many as suit the processors.
        """
        self._scheduler = scheduler
        self._find_handler = find_handler
        threads = max(2, os.cpu_count() or 1)
        in_python = min(threads // 2, MAX_PYTHON_THREADS)
        fast = fast_threads or (min(threads, MAX_FAST_THREADS) if express else in_python)
        scheduler.limit_outside(in_python)
        self._threads = [
            *self._named("admin", min(functions, MAX_ADMIN_THREADS), self._serve_admin),
            *self._named("hsm", fast, self._serve_fast),
            *self._named("hsm-slow", threads, self._serve_slow),
        ]

    @staticmethod
    def _named(name: str, count: int, target: Callable[[], None]) -> list[threading.Thread]:
        return [threading.Thread(target=target, name=f"{name}-{number}", daemon=True) for number in range(count)]

    def start(self) -> None:
        """Start every thread."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End every thread after the command it is at; those still waiting for a thread are dropped."""
        self._scheduler.wake()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in self._threads:
            if thread.ident is None:
                continue  # the start ended before it
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                _log.warning("worker %s did not end within %.0f s", thread.name, STOP_TIMEOUT_S)

    def _serve_admin(self) -> None:
        self._serve(lambda: self._scheduler.pull(RingClass.ADMIN), _execute_admin)

    def _serve_fast(self) -> None:
        self._serve(lambda: self._scheduler.pull(RingClass.HSM), _dispatch)

    def _serve_slow(self) -> None:
        self._serve(self._scheduler.pull_slow, _execute_hsm)

    def _serve(self, pull: Callable[[], Command | None], work: Callable[[CommandHandler, Command], None]) -> None:
        """Until there are no more; want of memory, at whatever point, ends no thread."""
        while True:
            try:
                command = pull()
                if command is None:
                    return
                self._run(command, work)
            except MemoryError:
                logs.failure(_log, "no memory for a command")

    def _run(self, command: Command, work: Callable[[CommandHandler, Command], None]) -> None:
        """Whatever goes wrong in one command, it gets an answer, and the thread goes on to the next."""
        handler = self._find_handler(command)
        if handler is None:
            return
        try:
            work(handler, command)
        except Exception:
            logs.failure(_log, "%s command of queue %d failed", command.ring.name, command.queue_id)
            command.refuse()
