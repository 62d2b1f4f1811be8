# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Work with a device, written once and done with or without `await`.

What takes more than one command (bring a key back, then sign with it) is a *procedure*: a generator that yields steps
and gets what they answer. `perform` does its steps one after the other; `perform_async` awaits them.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ihsm.aio import completed
from ihsm.ddi.calls import Call
from ihsm.ddi.session import Session
from ihsm.driver import AesQueue, Controller, Submission
from ihsm.fast_path import FastPathSession

T = TypeVar("T")


class Link(Protocol):
    """What steps need of a device in use: see `ihsm.api.connection`."""

    @property
    def session(self) -> Session:
        """The open session."""

    @property
    def controller(self) -> Controller:
        """The controller of its function."""

    def aes_queue(self) -> AesQueue:
        """The AES queue whose turn it is."""


class Step(Protocol):
    """One thing to wait for."""

    def perform(self, link: Link) -> Any:
        """Wait for it; its answer."""

    async def perform_async(self, link: Link) -> Any:
        """The same, awaited."""


Procedure = Generator[Step, Any, T]


@dataclass(frozen=True, slots=True)
class Ask(Generic[T]):
    """An operation of the session."""

    call: Call[T]

    def perform(self, link: Link) -> T:
        """Execute it."""
        return link.session.perform(self.call)

    async def perform_async(self, link: Link) -> T:
        """The same, awaited."""
        return await link.session.perform_async(self.call)


@dataclass(frozen=True, slots=True)
class FastPath:
    """An AES command, or a batch of them."""

    submit: Callable[[AesQueue, FastPathSession, float], Submission]
    """Queue, session and time limit in seconds to what was submitted."""

    def perform(self, link: Link) -> Any:
        """Execute it."""
        return self._submit(link).result()

    async def perform_async(self, link: Link) -> Any:
        """The same, awaited."""
        return await completed(self._submit(link))

    def _submit(self, link: Link) -> Submission:
        return self.submit(link.aes_queue(), link.session.fast_path, link.controller.options.timeout_s)


class Changes:
    """Counts changes of something, for those who wait for the next one."""

    def __init__(self) -> None:
        """None yet."""
        self._condition = threading.Condition()
        self._count = 0
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def announce(self) -> None:
        """There was one."""
        with self._condition:
            self._count += 1
            waiting, self._waiting = self._waiting, []
            self._condition.notify_all()
        for loop, future in waiting:
            try:
                loop.call_soon_threadsafe(_resolve, future)
            except RuntimeError:  # the loop was closed; nobody waits there
                continue

    def next(self) -> Step:
        """A step that waits for the first change after this call."""
        return _NextChange(self, self._count)

    def wait(self, seen: int) -> None:
        """Wait until more than `seen` changes have been counted."""
        with self._condition:
            self._condition.wait_for(lambda: self._count != seen)

    async def wait_async(self, seen: int) -> None:
        """The same, awaited."""
        loop = asyncio.get_running_loop()
        with self._condition:
            if self._count != seen:
                return
            future = loop.create_future()
            self._waiting.append((loop, future))
        await future


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass(frozen=True, slots=True)
class _NextChange:
    changes: Changes
    seen: int

    def perform(self, link: Link) -> None:
        self.changes.wait(self.seen)

    async def perform_async(self, link: Link) -> None:
        await self.changes.wait_async(self.seen)


def perform(procedure: Procedure[T], link: Link) -> T:
    """Do the steps of a procedure; what they raise is raised in the procedure."""
    try:
        step = next(procedure)
        while True:
            try:
                answer = step.perform(link)
            except BaseException as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


async def perform_async(procedure: Procedure[T], link: Link) -> T:
    """The same, awaited."""
    try:
        step = next(procedure)
        while True:
            try:
                answer = await step.perform_async(link)
            except BaseException as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result
