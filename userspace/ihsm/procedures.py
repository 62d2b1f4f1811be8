# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Work with a device, written once and done with or without `await`.

What takes more than one command (ask for a key, encrypt to it, send that) is a *procedure*: a generator that yields
steps and gets what they answer. `perform` does its steps one after the other; `perform_async` awaits them.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast

L = TypeVar("L")
"""What the steps work with: a session, a channel, a device in use."""
L_contra = TypeVar("L_contra", contravariant=True)
P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


class Step(Protocol[L_contra]):
    """One thing to wait for."""

    def perform(self, link: L_contra, /) -> Any:
        """Wait for it; its answer."""

    async def perform_async(self, link: L_contra, /) -> Any:
        """The same, awaited."""


Procedure = Generator[Step[L], Any, T]


@dataclass(frozen=True, slots=True)
class Pause:
    """A while, in seconds."""

    seconds: float

    def perform(self, link: object, /) -> None:
        """Sleep."""
        time.sleep(self.seconds)

    async def perform_async(self, link: object, /) -> None:
        """The same, awaited."""
        import asyncio  # takes longer to load than the rest

        await asyncio.sleep(self.seconds)


@dataclass(frozen=True, slots=True)
class Through(Generic[L, T]):
    """A whole procedure that works with something else, such as a session's partition; for once."""

    link: L
    procedure: Procedure[L, T]

    def perform(self, link: object, /) -> T:
        """Do it."""
        return perform(self.procedure, self.link)

    async def perform_async(self, link: object, /) -> T:
        """The same, awaited."""
        return await perform_async(self.procedure, self.link)


def perform(procedure: Procedure[L, T], link: L) -> T:
    """Do the steps of a procedure; what they raise is raised in the procedure."""
    try:
        _steps_of(procedure, link, is_awaited=False).send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("a step that is performed awaits nothing")


async def perform_async(procedure: Procedure[L, T], link: L) -> T:
    """The same, awaited."""
    return await _steps_of(procedure, link, is_awaited=True)


async def _steps_of(procedure: Procedure[L, T], link: L, *, is_awaited: bool) -> T:
    """Both: a coroutine that awaits nothing ends where it is begun."""
    try:
        step = next(procedure)
        while True:
            try:
                answer = await step.perform_async(link) if is_awaited else step.perform(link)
            except BaseException as error:
                step = procedure.throw(error)
            else:
                step = procedure.send(answer)
    except StopIteration as end:
        result: T = end.value
        return result


def operation(method: Callable[Concatenate[S, P], Procedure[S, T]]) -> Callable[Concatenate[S, P], T]:
    """A method that begins a procedure with its object, as one that performs it; `awaited` makes its counterpart."""

    @functools.wraps(method)
    def performed(link: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return perform(method(link, *args, **kwargs), link)

    performed.begin = method  # type: ignore[attr-defined]
    return performed


def awaited(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Counterpart of an `operation` in a class whose `link` is the object: the same arguments, result and errors."""
    begin = cast("Callable[..., Procedure[Any, T]]", method.begin)  # type: ignore[attr-defined]

    @functools.wraps(begin)
    async def performed(view: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await perform_async(begin(view.link, *args, **kwargs), view.link)

    return performed
