# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Checks of what callers give: an argument that cannot be is refused before anything is done, by name.

Where a call takes tens of microseconds, `checked` looks at all of its arguments. The AES queues, which are quicker, ask
`octets` and `integer` only of what their own code would stumble over.
"""

from __future__ import annotations

import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping
from enum import IntEnum, IntFlag
from operator import index
from typing import Any, Final, ParamSpec, TypeVar, Union, cast

from ihsm.errors import ArgumentError, ArgumentTypeError

P = ParamSpec("P")
R = TypeVar("R")
Octets = bytes | bytearray | memoryview
_Check = Callable[[str, str, Any], Any]
"""Operation, argument and value to the value as the function takes it."""


def octets(operation: str, argument: str, value: Octets | None, size: int | None = None) -> bytes:
    """The bytes given, which must be `size` bytes where that is not None.

    Raises:
        ArgumentTypeError: something else than bytes, a bytearray or a memoryview.
        ArgumentError: another length.
    """
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ArgumentTypeError(operation, argument, f"{_kind(value)}, must be bytes")
    data = value if isinstance(value, bytes) else bytes(value)
    if size is not None and len(data) != size:
        raise ArgumentError(operation, argument, f"{len(data)} bytes, must be {size}")
    return data


def whole(operation: str, argument: str, value: Any) -> int:
    """The number given, of whatever type.

    Raises:
        ArgumentTypeError: no whole number.
    """
    try:
        return index(value)
    except TypeError:
        raise ArgumentTypeError(operation, argument, f"{_kind(value)}, must be a whole number") from None


def integer(operation: str, argument: str, value: int, low: int, high: int) -> int:
    """The number given, `low` to `high`.

    Raises:
        ArgumentTypeError: no whole number.
        ArgumentError: out of range.
    """
    number = whole(operation, argument, value)
    if not low <= number <= high:
        raise ArgumentError(operation, argument, f"{number}, {low} to {high} possible")
    return number


def flag(operation: str, argument: str, value: bool) -> bool:
    """Yes or no.

    Raises:
        ArgumentTypeError: neither.
    """
    if not isinstance(value, bool):
        raise ArgumentTypeError(operation, argument, f"{_kind(value)}, must be True or False")
    return value


MAX_WAIT_S: Final = 1_000_000.0
"""Eleven days: longer waits are as good as this, and the system's calls take no infinite ones."""


def seconds(operation: str, argument: str, value: float) -> float:
    """A duration or time limit; infinite ones are long.

    Raises:
        ArgumentTypeError: no number.
        ArgumentError: not a number (NaN).
    """
    if not isinstance(value, int | float):
        raise ArgumentTypeError(operation, argument, f"{_kind(value)}, must be a number")
    if math.isnan(value):
        raise ArgumentError(operation, argument, "not a number")
    return float(value)


def waiting_time(operation: str, argument: str, value: float) -> float:
    """How long to wait for something that others have, in seconds; at most MAX_WAIT_S count.

    Raises:
        ArgumentTypeError: no number.
        ArgumentError: not a number (NaN), or negative.
    """
    value = seconds(operation, argument, value)
    if value < 0:
        raise ArgumentError(operation, argument, f"{value:g} s, must not be negative")
    return min(value, MAX_WAIT_S)


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function refuse arguments that are not what its annotations say.

    Bytes may be any of `Octets`, whole numbers anything that Python takes as an index, enumerations their numbers; the
    function gets the proper type. Protocols and what cannot be told at run time are let through.

    Raises of the function:
        ArgumentTypeError: another type.
        ArgumentError: no number of the enumeration, or NaN.
    """
    compiled = functools.cache(lambda: _compile(function))

    @functools.wraps(function)
    def check(*args: P.args, **kwargs: P.kwargs) -> R:
        operation, positional, named = compiled()
        values = list(args)
        for position, (name, look) in enumerate(positional[: len(values)]):
            values[position] = look(operation, name, values[position])
        for name in kwargs:
            if name in named:
                kwargs[name] = named[name](operation, name, kwargs[name])
        return function(*values, **kwargs)  # type: ignore[arg-type]

    if not inspect.iscoroutinefunction(function):
        return cast("Callable[P, R]", check)

    # What awaits the coroutine gets the error, as from any other coroutine: a gather of many is not torn by one.
    @functools.wraps(function)
    async def check_awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
        return await cast("Any", check)(*args, **kwargs)

    return cast("Callable[P, R]", check_awaited)


def checked_fields(instance: Any) -> None:
    """The same for a dataclass, in its `__post_init__`; errors as `checked`."""
    kind = type(instance)
    for name, look in _field_checks(kind).items():  # type: ignore[arg-type]
        given = getattr(instance, name)
        value = look(kind.__name__, name, given)
        if value is not given:
            object.__setattr__(instance, name, value)


@functools.cache
def _field_checks(kind: Any) -> Mapping[str, _Check]:
    return {name: _check_for(hint) for name, hint in typing.get_type_hints(kind).items()}


def _compile(function: Callable[..., Any]) -> tuple[str, list[tuple[str, _Check]], dict[str, _Check]]:
    hints = typing.get_type_hints(function)
    positional: list[tuple[str, _Check]] = []
    named: dict[str, _Check] = {}
    for parameter in inspect.signature(function).parameters.values():
        look = _check_for(hints.get(parameter.name, Any))
        if parameter.kind is not parameter.KEYWORD_ONLY:
            positional.append((parameter.name, look))
        named[parameter.name] = look
    return function.__qualname__.removesuffix(".__init__"), positional, named


def _check_for(hint: Any) -> _Check:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _any_of([_check_for(each) for each in typing.get_args(hint)], hint)
    if hint is bytes:
        return octets
    if hint is float:
        return seconds
    if hint is int:
        return whole
    kind = origin if origin is not None else hint
    if kind is Any or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return _anything
    if issubclass(kind, IntEnum | IntFlag):
        return functools.partial(_member, kind)
    return functools.partial(_instance, kind)


def _anything(operation: str, argument: str, value: Any) -> Any:
    return value


def _instance(kind: type, operation: str, argument: str, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ArgumentTypeError(operation, argument, f"{_kind(value)}, must be {kind.__name__}")
    return value


def _member(kind: type[IntEnum | IntFlag], operation: str, argument: str, value: Any) -> Any:
    number = whole(operation, argument, value)
    # An open enumeration has members for whatever number a device says; a caller names one that is declared.
    if issubclass(kind, IntEnum) and number not in kind.__members__.values():
        raise ArgumentError(operation, argument, f"{number} is no {kind.__name__}")
    return value if type(value) is kind else kind(number)


def _any_of(looks: list[_Check], hint: Any) -> _Check:
    def look(operation: str, argument: str, value: Any) -> Any:
        problem: ArgumentError | None = None
        for each in looks:
            try:
                return each(operation, argument, value)
            except ArgumentError as error:
                problem = error
            except ArgumentTypeError:
                continue
        raise problem or ArgumentTypeError(operation, argument, f"{_kind(value)}, must be {hint}")

    return look


def _kind(value: object) -> str:
    return type(value).__name__
