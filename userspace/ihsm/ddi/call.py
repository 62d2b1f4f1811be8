# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""An operation as a value, to be performed at once or awaited; `ihsm.ddi.calls` makes them.

Each is a step of `ihsm.procedures`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from ihsm.procedures import Step
from ihsm_abi.mbor import MborMap

R = TypeVar("R", bound=MborMap)
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Caller(Protocol):
    """What carries out commands given and answered in host form: a session, or a partition's channel without one."""

    def call(self, request: MborMap, response: type[R], /) -> R:
        """Execute a command; errors as `ihsm.ddi.Channel.call`."""

    async def call_async(self, request: MborMap, response: type[R], /) -> R:
        """The same for coroutines; errors as `ihsm.ddi.Channel.call_async`."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T_co]):
    """One operation: its request, what it answers with, and what becomes of the answer."""

    request: MborMap
    response: type[MborMap]
    result: Callable[[Any], T_co]
    """Of an answer of the class `response`."""

    def perform(self, link: Caller, /) -> T_co:
        """Execute it; errors as `ihsm.ddi.Channel.call`."""
        return self.result(link.call(self.request, self.response))

    async def perform_async(self, link: Caller, /) -> T_co:
        """The same for coroutines; errors as `ihsm.ddi.Channel.call_async`."""
        return self.result(await link.call_async(self.request, self.response))


Procedure = Generator[Step[Caller], Any, T]


def ask(call: Call[T]) -> Procedure[T]:
    """An operation as a procedure of this step alone."""
    answer: T = yield call
    return answer


def command(request: MborMap, response: type[R]) -> Procedure[R]:
    """A command as a procedure whose result is its answer."""
    answer: R = yield Call(request, response, lambda given: given)
    return answer
