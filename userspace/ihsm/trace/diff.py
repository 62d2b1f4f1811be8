# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where two recordings show that their drivers did different things."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from typing import Any, Final

from ihsm.trace.driver_side import Step, driver_side
from ihsm.trace.files import Numbered

LONGEST_EXACT: Final = 4_000
"""Steps between equal beginnings and ends that are compared exactly; of more, those that come often are no anchors."""


class DifferenceKind(StrEnum):
    """How two drivers differ at a place."""

    CHANGED = "changed"
    """The same step with other values."""
    MOVED = "moved"
    """The same step at another place."""
    ONLY_FIRST = "only in A"
    ONLY_SECOND = "only in B"


@dataclass(frozen=True, slots=True)
class Difference:
    """One place."""

    kind: DifferenceKind
    first: Step | None
    """The step in the first recording."""
    second: Step | None
    values: tuple[tuple[str, Any, Any], ...] = ()
    """Of a changed step: name, value in the first and in the second."""


def differences(first: Iterable[Numbered], second: Iterable[Numbered]) -> list[Difference]:
    """Where two drivers differ, in the order of the first recording."""
    left, right = driver_side(first), driver_side(second)
    found: list[Difference] = []
    gone: list[Step] = []
    come: list[Step] = []
    for a, b in _blocks(left, right):
        for one, other in _paired(a, b):
            if one is not None and other is not None:
                values = tuple(_changes(one, other))
                if values:
                    found.append(Difference(DifferenceKind.CHANGED, one, other, values))
            elif one is not None:
                gone.append(one)
            elif other is not None:
                come.append(other)
    found += _moved(gone, come)
    return sorted(found, key=_place)


def _place(difference: Difference) -> tuple[int, int]:
    numbers = [step.number for step in (difference.first, difference.second) if step is not None]
    return numbers[0], numbers[-1]


def _blocks(left: Sequence[Step], right: Sequence[Step]) -> Iterator[tuple[Sequence[Step], Sequence[Step]]]:
    """Pairs of stretches, one after the other, that correspond; equal ones step by step."""
    begin = 0
    while begin < min(len(left), len(right)) and left[begin].key == right[begin].key:
        yield left[begin : begin + 1], right[begin : begin + 1]
        begin += 1
    end = 0
    while end < min(len(left), len(right)) - begin and left[-1 - end].key == right[-1 - end].key:
        end += 1
    a, b = left[begin : len(left) - end], right[begin : len(right) - end]
    matcher = SequenceMatcher(
        None, [step.key for step in a], [step.key for step in b], autojunk=max(len(a), len(b)) > LONGEST_EXACT
    )
    for tag, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        if tag == "equal":
            yield from zip(
                (a[at : at + 1] for at in range(a_from, a_to)),
                (b[at : at + 1] for at in range(b_from, b_to)),
                strict=True,
            )
        else:
            yield a[a_from:a_to], b[b_from:b_to]
    for at in range(end, 0, -1):
        yield left[len(left) - at :][:1], right[len(right) - at :][:1]


def _paired(left: Sequence[Step], right: Sequence[Step]) -> Iterator[tuple[Step | None, Step | None]]:
    """Steps of two stretches that are about the same, in order; others with nothing."""
    matcher = SequenceMatcher(None, [step.subject for step in left], [step.subject for step in right], autojunk=False)
    for tag, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        if tag == "equal":
            yield from zip(left[a_from:a_to], right[b_from:b_to], strict=True)
        else:
            yield from ((step, None) for step in left[a_from:a_to])
            yield from ((None, step) for step in right[b_from:b_to])


def _changes(one: Step, other: Step) -> Iterator[tuple[str, Any, Any]]:
    """Values in which two steps differ; of what commands led to, only what both recordings have."""
    for name in dict.fromkeys([*one.fields, *other.fields]):
        if one.fields.get(name) != other.fields.get(name):
            yield name, one.fields.get(name), other.fields.get(name)
    for name in one.content:
        if name in other.content and one.content[name] != other.content[name]:
            yield name, one.content[name], other.content[name]


def _moved(gone: list[Step], come: list[Step]) -> Iterator[Difference]:
    """What one has and the other has not, unless the other has it elsewhere."""
    for step in gone:
        twin = next((other for other in come if other.key == step.key), None)
        if twin is None:
            yield Difference(DifferenceKind.ONLY_FIRST, step, None)
        else:
            come.remove(twin)
            yield Difference(DifferenceKind.MOVED, step, twin)
    yield from (Difference(DifferenceKind.ONLY_SECOND, None, step) for step in come)
