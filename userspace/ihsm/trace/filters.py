# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which records somebody wants to see: `kind=entry,completion`, `queue!=0`; all that are given must fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ihsm.trace.decoding import entry_fields, header_fields, layout_of
from ihsm.trace.records import Record
from ihsm_abi.ddi import DdiOp
from ihsm_abi.trace import KIND_NAMES, TraceKind
from ihsm_abi.trace_fields import COMMAND_IDS

ALWAYS: Final = frozenset({TraceKind.START, TraceKind.LOST})
"""Kinds that pass every filter: without them nobody knows what is missing."""


def _number(text: str) -> int:
    return int(text, 0)


def _kind(text: str) -> int:
    return KIND_NAMES[text]


def _operation(text: str) -> int:
    return DdiOp[text] if text in DdiOp.__members__ else _number(text)


def _cid(record: Record) -> int | None:
    layout = layout_of(record)
    if layout is None:
        return getattr(record, "cid", None)
    return int(entry_fields(record)[f"{layout.name}.{COMMAND_IDS[layout.name]}"])


def _attribute(name: str) -> Callable[[Record], int | None]:
    return lambda record: getattr(record, name, None)


@dataclass(frozen=True, slots=True)
class _Name:
    """What a filter can ask for."""

    parse: Callable[[str], int]
    value: Callable[[Record], int | None]
    """Of a record; None if it has none, and so fits no value."""


_NAMES: Final = {
    "kind": _Name(_kind, _attribute("kind")),
    "queue": _Name(_number, _attribute("queue")),
    "cid": _Name(_number, _cid),
    "vector": _Name(_number, _attribute("vector")),
    "region": _Name(_number, _attribute("region")),
    "offset": _Name(_number, _attribute("offset")),
    "operation": _Name(_operation, lambda record: header_fields(record).get("ddi.op")),
}
NAMES: Final = tuple(_NAMES)
"""What can stand in front of `=`."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One condition."""

    name: str
    values: frozenset[int]
    negated: bool
    text: str
    """As it was given."""

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Of `NAME=VALUE,...` or `NAME!=VALUE,...`; values alone are kinds.

        Raises:
            ValueError: it is none; the message says why.
        """
        name, equals, values = text.partition("=")
        negated = bool(equals) and name.endswith("!")
        name = name.removesuffix("!") if equals else "kind"
        if name not in _NAMES:
            raise ValueError(f"{name!r} is none of {', '.join(NAMES)}")
        found = set()
        for value in (values if equals else text).split(","):
            try:
                found.add(int(_NAMES[name].parse(value)))
            except (KeyError, ValueError):
                known = f"none of {', '.join(KIND_NAMES)}" if name == "kind" else f"no {name}"
                raise ValueError(f"{value!r} is {known}") from None
        return cls(name, frozenset(found), negated, text)

    def fits(self, record: Record) -> bool:
        """Whether a record is meant."""
        value = _NAMES[self.name].value(record)
        return (value in self.values) is not self.negated


class Filters:
    """Conditions that must all fit."""

    def __init__(self, filters: Iterable[Filter]) -> None:
        """Without any, everything fits."""
        self._filters: Sequence[Filter] = tuple(filters)

    def __len__(self) -> int:
        """How many conditions there are."""
        return len(self._filters)

    def __str__(self) -> str:
        """As they were given; empty without any."""
        return " ".join(each.text for each in self._filters)

    @property
    def kinds(self) -> list[str] | None:
        """Names of the kinds that may fit, None for all: what a device need not record otherwise."""
        by_kind = [each for each in self._filters if each.name == "kind"]
        if not by_kind:
            return None
        return [
            name
            for name, kind in KIND_NAMES.items()
            if kind in ALWAYS or all((kind in each.values) is not each.negated for each in by_kind)
        ]

    def fit(self, record: Record) -> bool:
        """Whether a record is meant."""
        kind: Any = getattr(record, "kind", None)
        return kind in ALWAYS or all(each.fits(record) for each in self._filters)
