# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults as data: what can be said of each action, and JSON both ways."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi import json_text
from ihsm_abi.ddi.ops import DdiOp
from ihsm_abi.fault_actions import MAX_COUNT, MAX_MS, ActionSpec, DmaPart, FaultAction, FaultError, Parameter
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.faults import Fault, Match, StandingFault, When
from ihsm_abi.registers import Register

MATCH_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "queue": st.integers(0, 65) | st.integers(256, 385),
    "opcode": st.integers(0, 0x3FF),
    "operation": st.sampled_from(DdiOp) | st.integers(0, 0xFFFF_FFFF).map(DdiOp),
    "session": st.integers(0, 0xFFFF),
    "register": st.sampled_from(Register),
    "vector": st.integers(0, 31),
}
WHEN_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "nth": st.integers(1, MAX_COUNT),
    "count": st.integers(1, MAX_COUNT),
    "after_ms": st.integers(0, MAX_MS),
    "for_ms": st.integers(1, MAX_MS),
    "per_mille": st.integers(1, 1000),
    "seed": st.integers(0, 0xFFFF_FFFF),
}


def some_of(values: dict[str, st.SearchStrategy[Any]], names: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional={name: values[name] for name in names})


def value_of(parameter: Parameter) -> st.SearchStrategy[Any]:
    if parameter.choices:
        return st.sampled_from(parameter.choices)
    return st.integers(parameter.minimum, parameter.maximum)


def parameters_of(spec: ActionSpec) -> st.SearchStrategy[dict[str, Any]]:
    required = {each.name: value_of(each) for each in spec.parameters if each.required}
    optional = {each.name: value_of(each) for each in spec.parameters if not each.required}
    given_some = st.fixed_dictionaries(required, optional=optional)
    if spec.action is FaultAction.WRONG_BAR_SIZE:
        return given_some.map(lambda values: values | {"size": values["size"] and 1 << values["size"] % 17 + 4})
    if spec.action is FaultAction.WRONG_IDENTIFY:
        return given_some.map(lambda values: values | {"value": values["value"] % 256})
    return given_some.filter(bool) if spec.any_parameter else given_some


def faults_of(spec: ActionSpec) -> st.SearchStrategy[Fault]:
    return st.builds(
        Fault,
        st.just(spec.action),
        some_of(MATCH_VALUES, spec.matches).map(lambda values: Match(**values)),
        some_of(WHEN_VALUES, spec.whens).map(lambda values: When(**values)),
        parameters_of(spec),
    )


faults = st.sampled_from(list(ACTIONS.values())).flatmap(faults_of)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(faults)
def test_json_round_trip(fault: Fault) -> None:
    again = Fault.from_json(json_text.parse(json_text.dump(fault.to_json())))
    assert again == fault
    assert hash(again) == hash(fault)
    assert again.to_json() == fault.to_json()


@given(faults, st.data())
def test_anything_else_is_refused_by_name(fault: Fault, data: st.DataObject) -> None:
    """Nonsense put anywhere into a fault gives a FaultError or another fault, and nothing else."""
    record = fault.to_json()
    names = ("match", "when", "parameters", "action", "other")
    place = data.draw(st.sampled_from(names))
    inside = data.draw(st.sampled_from(["", *MATCH_VALUES, *WHEN_VALUES, "ms", "part", "other"]))
    nonsense = data.draw(json_values)
    if inside and isinstance(record.get(place, {}), dict):
        record[place] = record.get(place, {}) | {inside: nonsense}
    else:
        record[place] = nonsense
    try:
        assert Fault.from_json(Fault.from_json(record).to_json())
    except FaultError as error:
        assert str(error).startswith(error.field)  # noqa: PT017
        assert error.reason  # noqa: PT017


@given(st.builds(StandingFault, st.integers(1), faults, st.integers(0), st.none() | st.integers(0)))
def test_what_has_become_of_it_round_trip(standing: StandingFault) -> None:
    assert StandingFault.from_json(json_text.parse(json_text.dump(standing.to_json()))) == standing


@given(json_values)
def test_what_is_no_object_is_refused(value: Any) -> None:
    with pytest.raises(FaultError):
        Fault.from_json(value)


@pytest.mark.parametrize(
    ("record", "field"),
    [
        ({}, "action"),
        ({"action": "unknown"}, "action"),
        ({"action": "drop-completion", "more": 1}, "more"),
        ({"action": "drop-completion", "match": []}, "match"),
        ({"action": "drop-completion", "match": {"vector": 1}}, "match.vector"),
        ({"action": "drop-completion", "match": {"queue": 66}}, "match.queue"),
        ({"action": "drop-completion", "match": {"queue": 386}}, "match.queue"),
        ({"action": "drop-completion", "match": {"queue": True}}, "match.queue"),
        ({"action": "drop-completion", "match": {"operation": "Nothing"}}, "match.operation"),
        ({"action": "drop-completion", "match": {"operation": -1}}, "match.operation"),
        ({"action": "all-ones", "match": {"register": 20}}, "match.register"),
        ({"action": "drop-completion", "when": {"nth": 0}}, "when.nth"),
        ({"action": "drop-completion", "when": {"count": 0}}, "when.count"),
        ({"action": "drop-completion", "when": {"for_ms": 0}}, "when.for_ms"),
        ({"action": "drop-completion", "when": {"after_ms": MAX_MS + 1}}, "when.after_ms"),
        ({"action": "spurious-interrupt", "when": {"count": 2}, "parameters": {"vector": 1}}, "when.count"),
        ({"action": "wrong-cid"}, "parameters.cid"),
        ({"action": "wrong-cid", "parameters": {"cid": 1 << 16}}, "parameters.cid"),
        ({"action": "wrong-cid", "parameters": {"cid": 1, "sqhd": 1}}, "parameters.sqhd"),
        ({"action": "fail-dma", "parameters": {"part": "none"}}, "parameters.part"),
        ({"action": "late-ready"}, "parameters"),
        ({"action": "grant-queues", "parameters": {}}, "parameters"),
        ({"action": "all-ones", "when": {"per_mille": 0}}, "when.per_mille"),
        ({"action": "all-ones", "when": {"per_mille": 1001}}, "when.per_mille"),
        ({"action": "all-ones", "when": {"seed": 1 << 32}}, "when.seed"),
        ({"action": "never", "when": {"count": 1}}, "when.count"),
        ({"action": "reorder-completions"}, "parameters.behind"),
        ({"action": "pause-process", "when": {"for_ms": 1}, "parameters": {"ms": 1}}, "when.for_ms"),
        ({"action": "wrong-bar-size", "parameters": {"bar": "msix", "size": 15}}, "parameters.size"),
        ({"action": "wrong-bar-size", "parameters": {"bar": "msix", "size": 4097}}, "parameters.size"),
        ({"action": "wrong-bar-size", "parameters": {"bar": "4", "size": 4096}}, "parameters.bar"),
        ({"action": "wrong-identify", "parameters": {"field": "cp_sqes", "value": 256}}, "parameters.value"),
        ({"action": "wrong-identify", "parameters": {"field": "sn", "value": 1}}, "parameters.field"),
        ({"action": "wrong-cap-to", "when": {"nth": 2}, "parameters": {"to": 1}}, "when.nth"),
    ],
)
def test_the_member_that_is_wrong_is_named(record: dict[str, Any], field: str) -> None:
    with pytest.raises(FaultError) as caught:
        Fault.from_json(record)
    assert caught.value.field == field


def test_members_that_are_null_say_nothing() -> None:
    record = {"action": "drop-completion", "match": {"queue": None}, "when": None, "parameters": None}
    assert Fault.from_json(record) == Fault(FaultAction.DROP_COMPLETION)


def test_parameters_are_the_faults_own() -> None:
    parameters = {"part": "source"}
    fault = Fault(FaultAction.FAIL_DMA, parameters=parameters)
    parameters["part"] = "list"
    assert fault.parameters["part"] == DmaPart.SOURCE


@pytest.mark.parametrize("match", [{"register": 20}, {"operation": 1062}])
def test_types_are_checked_in_python_too(match: dict[str, Any]) -> None:
    with pytest.raises(FaultError):
        Match(**match)


def test_the_table_has_every_action() -> None:
    assert list(ACTIONS) == list(FaultAction)
    for spec in ACTIONS.values():
        assert set(spec.matches) <= set(MATCH_VALUES)
        assert set(spec.whens) <= set(WHEN_VALUES)
        assert "\n" not in spec.meaning + spec.driver
        assert not spec.at_start_only or (spec.matches, spec.whens) == ((), ())
        assert spec.spec
        for parameter in spec.parameters:
            assert parameter.choices or parameter.minimum < parameter.maximum
            assert spec.parameter(parameter.name) is parameter
        assert spec.parameter("none") is None
