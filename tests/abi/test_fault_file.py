# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The file of faults that a device begins with."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from abi.test_faults import faults, json_values
from ihsm_abi.fault_file import MAX_BYTES, MAX_FAULTS, FaultFileError, dump, parse
from ihsm_abi.faults import Fault

CAP_TO: dict[str, Any] = {"action": "wrong-cap-to", "parameters": {"to": 0}}


def bar(name: str) -> dict[str, Any]:
    return {"action": "wrong-bar-size", "parameters": {"bar": name, "size": 0}}


@given(st.lists(faults.filter(lambda fault: not fault.spec.at_start_only), max_size=5))
def test_what_is_written_is_read(some: list[Fault]) -> None:
    assert parse(dump(some)) == some
    assert parse(dump(some).encode()) == some


@example([{"\n": None}])
@given(json_values | st.lists(json_values, max_size=3))
def test_any_other_json_is_refused_in_one_line(value: Any) -> None:
    try:
        assert parse(json.dumps(value)) == []
        assert value == []
    except FaultFileError as error:
        assert "\n" not in str(error)  # noqa: PT017


@given(st.binary(max_size=40) | st.text(max_size=40))
def test_any_other_text_is_refused(text: bytes | str) -> None:
    try:
        parse(text)
    except FaultFileError as error:
        assert str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("records", "text"),
    [
        ({}, "an array of faults is required"),
        ([1], "fault 1: fault: an object is required"),
        ([CAP_TO, {"action": "wrong-cap"}], "fault 2: action: 'wrong-cap' is none of"),
        ([CAP_TO, CAP_TO], "fault 2: action: there is a wrong-cap-to already"),
        ([bar("msix"), bar("doorbells"), bar("msix")], "fault 3: action: there is a wrong-bar-size for msix already"),
        ([{"action": "wrong-vectors", "parameters": {"vectors": 129}}], "fault 1: parameters.vectors: 129 is outside"),
        ([CAP_TO | {"when": {"nth": 1}} | {"match": {"queue": 1}}], "fault 1: match.queue: wrong-cap-to takes none"),
        ([{"action": "all-ones"}] * (MAX_FAULTS + 1), f"{MAX_FAULTS + 1} faults, at most {MAX_FAULTS}"),
    ],
)
def test_what_is_wrong_is_named(records: Any, text: str) -> None:
    with pytest.raises(FaultFileError) as caught:
        parse(json.dumps(records))
    assert str(caught.value).startswith(text)


def test_a_text_without_end() -> None:
    with pytest.raises(FaultFileError, match="longer than"):
        parse(b" " * (MAX_BYTES + 1))
