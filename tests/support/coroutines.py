# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Coroutines over a controller, in a loop that sees what they leave behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from ihsm.driver import Controller
from ihsm.driver.hsm_queue import HsmReply
from ihsm_abi.hsm_queue import ControlKind
from support.modules import ReversingModule
from support.waiting import HANG_S, one_round

T = TypeVar("T")


class Loop(asyncio.SelectorEventLoop):
    """A loop that knows its readers and what nobody caught."""

    def __init__(self) -> None:
        self.readers: set[int] = set()
        self.added = 0
        self.uncaught: list[dict[str, Any]] = []
        super().__init__()
        self.own = set(self.readers)
        self.set_exception_handler(lambda _, context: self.uncaught.append(context))

    def _add_reader(self, fd: int, *arguments: Any) -> Any:
        self.readers.add(fd)
        self.added += 1
        return super()._add_reader(fd, *arguments)  # type: ignore[misc]

    def _remove_reader(self, fd: int) -> Any:
        self.readers.discard(fd)
        return super()._remove_reader(fd)  # type: ignore[misc]


def run(main: Coroutine[Any, Any, T], *, is_alone: bool = True) -> T:
    """Like `asyncio.run`; nothing may be left of what was awaited, and nothing be lost unseen.

    Not `is_alone`: another thread does something meanwhile that begins threads.
    """
    before = set(threading.enumerate())
    with asyncio.Runner(loop_factory=Loop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, Loop)
        outcome = runner.run(asyncio.wait_for(main, HANG_S))
        assert not is_alone or set(threading.enumerate()) <= before, "no thread was needed"
        runner.run(eventually(lambda: loop.readers == loop.own))
        assert not loop.uncaught
    return outcome


async def eventually(condition: Callable[[], object]) -> None:
    """Let the loop go on until `condition` holds."""
    async with asyncio.timeout(HANG_S):
        while not condition():
            await one_round()


def exchange(controller: Controller, message: bytes, timeout_s: float = HANG_S) -> Awaitable[HsmReply]:
    return controller.exchange_async(message, ControlKind.NONE, None, timeout_s=timeout_s)


def started(awaitable: Awaitable[T]) -> asyncio.Future[T]:
    return asyncio.ensure_future(awaitable)


async def fetched(module: ReversingModule) -> None:
    """A slow command has begun."""
    await eventually(lambda: module.started.acquire(blocking=False))
