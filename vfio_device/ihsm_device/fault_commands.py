# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a function's control socket does with faults: adds, lists and clears them, and waits for their hits."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Collection, Iterator, Mapping
from typing import Any

from ihsm_abi.control import (
    DEFAULT_FAULT_WAIT_S,
    MAX_FAULT_WAIT_S,
    ControlCommand,
    ControlErrorCode,
    ControlRefusal,
)
from ihsm_abi.fault_actions import MAX_COUNT, check_integer
from ihsm_abi.fault_words import to_text
from ihsm_abi.faults import Fault, StandingFault
from ihsm_device.control_socket import FollowedResult, Handler, Result
from ihsm_device.faults import FaultSet, TooManyFaultsError, UnknownFaultError


class FaultCommands:
    """The commands `fault.*` of one function; they run on the thread of the control sockets."""

    def __init__(self, faults: FaultSet) -> None:
        """`faults` are the function's, and tell of their hits here from now on."""
        self._faults = faults
        self._waiting: set[_Waiting] = set()
        faults.on_hit(self._hit)

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """By command."""
        return {
            ControlCommand.FAULT_ADD: self._add,
            ControlCommand.FAULT_LIST: self._list,
            ControlCommand.FAULT_CLEAR: self._clear,
            ControlCommand.FAULT_WAIT: self._wait,
        }

    def status(self) -> list[dict[str, Any]]:
        """The faults that stand, as `ihsm status` shows them."""
        return [
            {"id": standing.number, "text": to_text(standing.fault), "hits": standing.hits, "left": standing.left}
            for standing in self._faults.list()
        ]

    def _add(self, arguments: dict[str, Any]) -> Result:
        """A fault may have the process stand still at once; its id is told before."""
        fault = Fault.from_json(arguments)
        with contextlib.ExitStack() as running:
            running.enter_context(self._faults.running)
            try:
                number = self._faults.add(fault)
            except TooManyFaultsError as error:
                raise ControlRefusal(ControlErrorCode.TOO_MANY_FAULTS, f"{error}; clear some") from None
            return FollowedResult({"id": number}, running.pop_all().close)

    def _list(self, arguments: dict[str, Any]) -> Result:
        _require_only(arguments, ())
        return {"faults": [standing.to_json() for standing in self._faults.list()]}

    def _clear(self, arguments: dict[str, Any]) -> Result | Awaitable[Result]:
        _require_only(arguments, ("id",))
        number = check_integer("id", arguments["id"], 1, MAX_COUNT) if "id" in arguments else None
        seen = [standing for standing in self._faults.seen() if number in (None, standing.number)]
        with _named(number):
            cleared = self._faults.clear(number)
        self._hit()
        result: Result = {"cleared": cleared}
        if seen:
            result["seen"] = [_was_seen(standing) for standing in seen]
        return self._when_back(result) if self._faults.is_returning else result

    async def _when_back(self, result: Result) -> Result:
        """The result, when a function that was gone is there again: who asks next finds it."""
        waiting = _Waiting()
        self._waiting.add(waiting)
        try:
            while self._faults.is_returning:
                await waiting.woken()
        finally:
            self._waiting.discard(waiting)
        return result

    async def _wait(self, arguments: dict[str, Any]) -> Result:
        _require_only(arguments, ("id", "hits", "timeout_s"))
        number = check_integer("id", arguments.get("id"), 1, MAX_COUNT)
        wanted = check_integer("hits", arguments.get("hits", 1), 1, MAX_COUNT)
        timeout_s = arguments.get("timeout_s", DEFAULT_FAULT_WAIT_S)
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float):
            raise ValueError(f"timeout_s: {timeout_s!r} is no number")
        if not 0 <= timeout_s <= MAX_FAULT_WAIT_S:
            raise ValueError(f"timeout_s: {timeout_s} is outside 0 to {MAX_FAULT_WAIT_S:g}")
        waiting = _Waiting()
        self._waiting.add(waiting)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while not self._faults.seen() and self._hits(number) < wanted:
                        await waiting.woken()
            hits = self._hits(number)
        finally:
            self._waiting.discard(waiting)
        if seen := self._faults.seen():
            raise ControlRefusal(ControlErrorCode.COMMAND_SEEN, "; ".join(map(_was_seen, seen)))
        return {"id": number, "hits": hits, "reached": hits >= wanted or self._faults.is_never(number)}

    def _hits(self, number: int) -> int:
        with _named(number):
            return self._faults.hits(number)

    def _hit(self) -> None:
        """Something may have been hit; called from any thread, and quick."""
        for waiting in tuple(self._waiting):
            waiting.wake()


def _was_seen(standing: StandingFault) -> str:
    """What is said of a command that must never be seen."""
    return f"fault {standing.number}, {to_text(standing.fault)}: such a command came, {standing.hits} hits"


class _Waiting:
    """A coroutine that looks again when it is woken, by any thread, however often that is."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._is_told = False

    def wake(self) -> None:
        """From any thread."""
        if not self._is_told:
            self._is_told = True
            with contextlib.suppress(RuntimeError):  # the loop has ended, and what waited with it
                self._loop.call_soon_threadsafe(self._event.set)

    async def woken(self) -> None:
        """Wait for `wake`: what happens from the return on wakes anew."""
        await self._event.wait()
        self._event.clear()
        self._is_told = False


@contextlib.contextmanager
def _named(number: int | None) -> Iterator[None]:
    """Refuse what names a fault that there is not."""
    try:
        yield
    except UnknownFaultError:
        raise ControlRefusal(ControlErrorCode.NO_SUCH_FAULT, f"there is no fault {number}") from None


def _require_only(arguments: Mapping[str, Any], known: Collection[str]) -> None:
    for name in arguments:
        if name not in known:
            raise ValueError(f"{name}: unknown; {', '.join(known) or 'no argument'} expected")
