# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""JSON as RFC 8259 has it. Python's own module also takes and writes NaN and infinities, which other parsers refuse."""

import json
import math
from collections.abc import Iterable
from typing import Any, Final

MAX_DEPTH: Final = 64
"""Arrays and objects inside each other; what is deeper could be read and then be too deep to be written."""


def parse(text: str | bytes, *, unique: bool = False) -> Any:
    """The value of a JSON text; bytes are UTF-8. With `unique` an object may have each name once.

    Raises:
        ValueError: it is none, or holds a number beyond a double's range, or is nested more than `MAX_DEPTH` deep, or
            repeats a name that has to be unique.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_once if unique else None
        )
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [part for whole in level for part in _parts(whole) if isinstance(part, dict | list)]
        if not level:
            return value
    raise ValueError(f"nested more than {MAX_DEPTH} deep")


def dump(value: Any, *, indent: int | None = None) -> str:
    """A value as JSON of ASCII characters, without spaces unless `indent` is given.

    Raises:
        ValueError: it holds NaN or an infinity.
    """
    separators = (",", ":") if indent is None else None
    return json.dumps(value, allow_nan=False, indent=indent, separators=separators)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Of a name that is there twice people may read one value and a parser another."""
    value = dict(members)
    if len(value) != len(members):
        raise ValueError("an object has a name twice")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON value")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is beyond the range of a double")
    return number
