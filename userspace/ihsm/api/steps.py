# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Steps of procedures that use keys: what `ihsm.procedures` performs or awaits here, and with what."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from ihsm import procedures
from ihsm.ddi.call import Call
from ihsm.ddi.session import Session
from ihsm.driver import AesCommands, OpenDevice, Submitted
from ihsm.errors import IhsmError
from ihsm.fast_path import FastPathSession

if TYPE_CHECKING:  # takes as long to load as the rest, and programs that wait do without it
    import asyncio

T = TypeVar("T")


class Link(Protocol):
    """What steps need of a device in use: see `ihsm.api.connection`."""

    @property
    def session(self) -> Session:
        """The open session."""

    @property
    def device(self) -> OpenDevice:
        """The device itself."""

    @property
    def aes_queues(self) -> Sequence[AesCommands[Submitted]]:
        """All AES queues, at least one."""

    def aes_queue(self) -> AesCommands[Submitted]:
        """An AES queue for one command."""


Step = procedures.Step[Link]
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


@dataclass(slots=True)
class FastPath:
    """An AES command, or a batch of them."""

    submit: Callable[[AesCommands[Submitted], FastPathSession, float], Submitted]
    """Queue, session and time limit in seconds to what was submitted."""

    def perform(self, link: Link) -> Any:
        """Execute it."""
        return self._submit(link).result()

    async def perform_async(self, link: Link) -> Any:
        """The same, awaited."""
        from ihsm.aio import completed

        return await completed(self._submit(link))

    def _submit(self, link: Link) -> Submitted:
        return self.submit(link.aes_queue(), link.session.fast_path, link.device.options.timeout_s)


class CurrentLink:
    """No waiting at all: the answer is the device that the procedure works with."""

    def perform(self, link: Link) -> Link:
        """The device."""
        return link

    async def perform_async(self, link: Link) -> Link:
        """The same."""
        return link


@dataclass(frozen=True, slots=True)
class Completed:
    """The completion of what was submitted before."""

    submission: Submitted

    def perform(self, link: Link) -> Any:
        """Wait for it."""
        return self.submission.result()

    async def perform_async(self, link: Link) -> Any:
        """The same, awaited."""
        from ihsm.aio import completed

        return await completed(self.submission)


@dataclass(frozen=True, slots=True)
class Make(Generic[T]):
    """An operation that leaves something in the device, which nobody would know of if its answer were missed.

    A command that was sent is carried out, whether or not whoever sent it is cancelled or interrupted meanwhile.
    """

    call: Call[T]
    orphaned: Callable[[T | None], None]
    """Gets the answer that came too late; None: there may have been one."""

    def perform(self, link: Link) -> T:
        """Execute it."""
        try:
            return link.session.perform(self.call)
        except IhsmError:
            raise
        except BaseException:
            self.orphaned(None)
            raise

    async def perform_async(self, link: Link) -> T:
        """The same, awaited."""
        import asyncio

        task = asyncio.ensure_future(link.session.perform_async(self.call))
        try:
            return await asyncio.shield(task)
        except IhsmError:
            raise
        except asyncio.CancelledError:
            task.add_done_callback(self._late)
            raise
        except BaseException:
            self.orphaned(None)
            raise

    def _late(self, task: asyncio.Future[T]) -> None:
        if task.cancelled():  # the event loop ends
            self.orphaned(None)
        elif task.exception() is None:
            self.orphaned(task.result())


class Signal:
    """Set once, by anyone; threads and coroutines wait for it with `Wait`."""

    __slots__ = ("_event", "_waiting")

    def __init__(self) -> None:
        """Not set."""
        self._event = threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def set(self) -> None:
        """Wake all who wait; harmless the second time."""
        self._event.set()
        while self._waiting:
            try:
                loop, future = self._waiting.pop()
            except IndexError:  # another thread was quicker
                return
            with contextlib.suppress(RuntimeError):  # the loop was closed; nobody waits there
                loop.call_soon_threadsafe(_resolve, future)

    def wait(self, limit_s: float | None = None) -> bool:
        """Wait until it is set; False if `limit_s` seconds pass first."""
        return self._event.wait(limit_s)

    async def wait_async(self, limit_s: float | None = None) -> bool:
        """The same, awaited."""
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()
        entry = (loop, future)
        self._waiting.append(entry)
        try:
            # Looked at after the entry is there: whoever sets it first, and then wakes all, does not miss this one.
            if not self._event.is_set():
                await asyncio.wait([future], timeout=limit_s)
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(entry)
        return self._event.is_set()


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


@dataclass(frozen=True, slots=True)
class Wait:
    """A signal to wait for; the answer is whether it came within `limit_s` seconds."""

    signal: Signal
    limit_s: float | None = None

    def perform(self, link: Link) -> bool:
        """Wait."""
        return self.signal.wait(self.limit_s)

    async def perform_async(self, link: Link) -> bool:
        """The same, awaited."""
        return await self.signal.wait_async(self.limit_s)


def one_step(step_of: Callable[..., Step]) -> Callable[..., Procedure[Any]]:
    """What makes a step, as what makes a procedure of this step alone."""

    def procedure(*arguments: Any) -> Procedure[Any]:
        return (yield step_of(*arguments))

    return procedure
