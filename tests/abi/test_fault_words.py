# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults as words: every value of an action has a name of its own, errors name it, and the text says all of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.fault_actions import ActionSpec, FaultAction, FaultError
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.fault_words import from_words, places, to_text
from ihsm_abi.faults import Fault, Match, When

SPECS = tuple(ACTIONS.values())
VALUES: dict[str, Any] = {"operation": "EccSign", "register": "CSTS"}
"""Of what is no number in the right place."""


def value_of(spec: ActionSpec, name: str) -> int | str:
    """A value that the action can have under this name."""
    parameter = spec.parameter(name)
    if parameter is not None:
        least = spec.action in (FaultAction.WRONG_IDENTIFY, FaultAction.WRONG_BAR_SIZE)
        return parameter.choices[0] if parameter.choices else parameter.minimum if least else parameter.maximum
    return VALUES.get(name, 2)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.action)
def test_no_action_has_two_values_of_one_name(spec: ActionSpec) -> None:
    assert len(places(spec)) == len(spec.matches) + len(spec.whens) + len(spec.parameters)


@given(st.data())
def test_words_are_a_fault_and_its_text_is_the_words(data: st.DataObject) -> None:
    spec = data.draw(st.sampled_from(SPECS))
    needed = {parameter.name for parameter in spec.parameters if parameter.required or spec.any_parameter}
    names = data.draw(st.sets(st.sampled_from(sorted(places(spec))))) | needed
    words = {name: value_of(spec, name) for name in places(spec) if name in names}
    fault = from_words(spec.action, words)
    assert Fault.from_json(fault.to_json()) == fault
    assert to_text(fault) == " ".join([spec.action, *(f"{name}={value}" for name, value in words.items())])


def test_an_example() -> None:
    words = {"queue": 1, "operation": "EccSign", "nth": 2, "ms": 7000}
    fault = from_words("delay-completion", words)
    match, when = Match.from_json({"queue": 1, "operation": "EccSign"}), When(nth=2)
    assert fault == Fault(FaultAction.DELAY_COMPLETION, match, when, {"ms": 7000})
    assert to_text(fault) == "delay-completion queue=1 operation=EccSign ms=7000 nth=2"


@pytest.mark.parametrize(
    ("action", "words", "field", "text"),
    [
        ("eat-completion", {}, "action", "drop-completion"),
        ("drop-completion", {"vector": 1}, "vector", "takes only queue, opcode"),
        ("drop-completion", {"queue": 2000}, "queue", "outside"),
        ("drop-completion", {"nth": 0}, "nth", "outside"),
        ("drop-completion", {"operation": "Sing"}, "operation", "no operation"),
        ("delay-completion", {}, "ms", "needs it"),
        ("delay-completion", {"ms": "soon"}, "ms", "no integer"),
        ("late-ready", {}, "parameters", "needs reads or ms"),
    ],
)
def test_errors_name_the_value(action: str, words: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(FaultError) as caught:
        from_words(action, words)
    assert caught.value.field == field
    assert text in caught.value.reason
