# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Fields of a JSON object that others may have changed: each is checked before it is used.

Messages name the field and what it should be, never its value, which may be a secret.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

T = TypeVar("T")
Parser = Callable[[Any], T]
"""A JSON value to what it stands for; raises ValueError."""
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)
_TIME_FORM: Final = "%Y-%m-%dT%H:%M:%SZ"


class FieldError(ValueError):
    """A field is not what it should be; the text is `name: what it should be`."""


def field(record: Mapping[str, Any], name: str, parser: Parser[T]) -> T:
    """One field of an object; raises FieldError."""
    if name not in record:
        raise FieldError(f"{name}: missing")
    return _parsed(record[name], name, parser)


def item(values: Sequence[Any], number: int, parser: Parser[T]) -> T:
    """One value of a list, counted from 0; raises FieldError with the number in the place of a name."""
    return _parsed(values[number], str(number), parser)


def _parsed(value: Any, name: str, parser: Parser[T]) -> T:
    problem: str
    try:
        return parser(value)
    except FieldError as error:
        problem = f"{name}.{error}"
    except ValueError as error:
        problem = f"{name}: {error}"
    raise FieldError(problem)


def only(record: Mapping[str, Any], names: Iterable[str]) -> None:
    """Refuse fields that nobody reads: they would be lost at the next change; raises ValueError."""
    if not record.keys() <= set(names):
        raise ValueError("it has a field that this format does not have")


def table(value: Any) -> Mapping[str, Any]:
    """An object."""
    if not isinstance(value, dict):
        raise ValueError("must be an object")
    return value


def text(value: Any) -> str:
    """A text that can be encoded."""
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError("must be a text")
    return value


def one_of(*values: str) -> Parser[str]:
    """One of a few words."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in values:
            raise ValueError(f"must be {' or '.join(values)}")
        return value

    return parse


def number(low: int, high: int) -> Parser[int]:
    """A whole number within bounds."""

    def parse(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a whole number, {low} to {high}")
        return value

    return parse


def octets(shortest: int, longest: int) -> Parser[bytes]:
    """Bytes in base64 (RFC 4648 §4, with padding)."""

    def parse(value: Any) -> bytes:
        data = None
        # Twice the length of what is admitted need not be decoded to be refused.
        if isinstance(value, str) and value.isascii() and len(value) <= 2 * longest + 4:
            try:
                data = base64.b64decode(value, validate=True)
            except binascii.Error:
                data = None
        if data is None or not shortest <= len(data) <= longest or encode(data) != value:
            raise ValueError(f"must be {shortest} to {longest} bytes in base64")
        return data

    return parse


def hexadecimal(size: int) -> Parser[bytes]:
    """Bytes as lower-case hexadecimal digits."""
    form = re.compile(f"[0-9a-f]{{{2 * size}}}", re.ASCII)

    def parse(value: Any) -> bytes:
        if not isinstance(value, str) or not form.fullmatch(value):
            raise ValueError(f"must be {2 * size} hexadecimal digits")
        return bytes.fromhex(value)

    return parse


def optional(parser: Parser[T]) -> Parser[T | None]:
    """The same or null."""
    return lambda value: None if value is None else parser(value)


def time_of_day(value: Any) -> datetime:
    """A time in ISO 8601, UTC, to the second."""
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            return datetime.strptime(value, _TIME_FORM).replace(tzinfo=UTC)
        except ValueError:
            pass
    raise ValueError("must be a time such as 2025-01-31T12:00:00Z")


def encode(data: bytes) -> str:
    """Bytes as `octets` reads them."""
    return base64.b64encode(data).decode()


def encode_time(moment: datetime) -> str:
    """A time as `time_of_day` reads it."""
    # Not strftime, which leaves out the zeros of years before 1000.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def now() -> datetime:
    """The time of day, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
