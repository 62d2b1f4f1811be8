# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Differences of two recordings: those that were planted in a copy, and nothing that differs from run to run."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.trace.diff import Difference, differences
from ihsm.trace.files import numbered
from ihsm.trace.records import Completion, Entry, Interrupt, Record
from ihsm_abi.hsm_queue import HSM_SQE
from ihsm_abi.registers import Register
from support.trace_life import AES, HSM, Life, good_life
from support.traces import BINDS, COMMANDS, Event, load, records_of

RECORDED = {"binds": load(BINDS), "commands": load(COMMANDS)}


def told(found: list[Difference]) -> list[tuple[Any, ...]]:
    """Kind, places in both, and what values."""
    return [
        (
            str(one.kind),
            one.first.number if one.first else None,
            one.second.number if one.second else None,
            *one.values,
        )
        for one in found
    ]


def planted(name: str, change: Callable[[list[Event]], None]) -> list[tuple[Any, ...]]:
    """Differences between a recording and a copy that was changed."""
    events = copy.deepcopy(RECORDED[name])
    change(events)
    return told(differences(records_of(RECORDED[name]), records_of(events)))


def at(name: str, number: int) -> Event:
    """A copy of the event in a line, from 1."""
    return dict(RECORDED[name][number - 1])


def swap(first: int, second: int) -> Callable[[list[Event]], None]:
    def change(events: list[Event]) -> None:
        events[first - 1], events[second - 1] = events[second - 1], events[first - 1]

    return change


def put(number: int, **fields: Any) -> Callable[[list[Event]], None]:
    return lambda events: events[number - 1].update(fields)


def patched(number: int, offset: int, byte: int) -> Callable[[list[Event]], None]:
    """Another byte in an entry, request or list."""

    def change(events: list[Event]) -> None:
        data = bytearray.fromhex(events[number - 1]["bytes"])
        data[offset] = byte
        events[number - 1]["bytes"] = data.hex()

    return change


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_does_not_differ_from_itself(name: str) -> None:
    assert planted(name, lambda events: None) == []


def test_a_swapped_order_is_one_difference() -> None:
    """ACQ is written before ASQ."""
    assert planted("commands", swap(7, 8)) in ([("moved", 7, 8)], [("moved", 8, 7)])


def test_commands_in_another_order_are_one_difference() -> None:
    """CREATE_SQ before CREATE_CQ: the entries, and what belongs to them."""
    assert planted("binds", swap(24, 28)) in (
        [("moved", 24, 28)],
        [("moved", 28, 24)],
        [("moved", 24, 28), ("moved", 28, 24)],
    )


def test_a_wrong_width_is_one_difference() -> None:
    assert planted("commands", put(6, size=8)) == [("changed", 6, 6, ("width", 4, 8))]


def test_a_doorbell_of_another_width_is_one_difference() -> None:
    assert planted("commands", put(14, size=8)) == [("changed", 14, 14, ("width", 4, 8))]


def test_a_changed_field_is_one_difference() -> None:
    assert planted("commands", patched(25, 46, 0x02)) == [("changed", 25, 25, ("dw11", 0x10003, 0x20003))]


def test_a_changed_byte_that_no_field_has_is_one_difference() -> None:
    ((kind, first, second, (name, before, after)),) = planted("commands", patched(58, 63, 0x01))
    assert (kind, first, second, name) == ("changed", 58, 58, "reserved")
    assert before == bytes(64)
    assert after == bytes(63) + b"\x01"


def test_a_changed_request_is_one_difference() -> None:
    ((kind, first, second, *values),) = planted("commands", patched(59, 8, 0x55))
    assert (kind, first, second) == ("changed", 58, 58)
    assert "request's bytes" in [name for name, _, _ in values]


def test_a_changed_list_is_one_difference() -> None:
    ((kind, first, second, (name, _, _)),) = planted("commands", patched(166, 8, 0x11))
    assert (kind, first, second, name) == ("changed", 164, 164, f"{at('commands', 166)['dir']} list")


def test_a_changed_value_is_one_difference() -> None:
    assert planted("commands", put(10, value=3)) == [("changed", 10, 10, ("value", 1, 3))]


def test_a_missing_step_and_one_too_many_are_told() -> None:
    assert planted("commands", lambda events: events.pop(4)) == [("only in A", 5, None)]
    assert planted("commands", lambda events: events.insert(5, dict(events[4]))) == [("only in B", None, 6)]


def test_several_are_found_at_their_places() -> None:
    def change(events: list[Event]) -> None:
        swap(7, 8)(events)
        put(19, size=8)(events)
        patched(45, 46, 0x12)(events)

    found = planted("commands", change)
    assert [(kind, first) for kind, first, *_ in found][1:] == [("changed", 19), ("changed", 45)]
    assert len(found) == 3


def test_what_differs_from_run_to_run_is_no_difference() -> None:
    """Addresses, command ids, polls, a health monitor's looks."""

    def change(events: list[Event]) -> None:
        csts = {"op": "read", "bar": 0, "off": int(Register.CSTS), "size": 4, "value": 1}
        for event in events:
            if event["op"] == "write" and event["off"] in (Register.ASQ, Register.ACQ) and event["bar"] == 0:
                event["value"] += 0x7000
            if event["op"] == "sqe" and event["sqid"] == 0:
                data = bytearray.fromhex(event["bytes"])
                data[2:4] = b"\x0e\x00"
                if any(data[24:32]):
                    data[25] ^= 0xF0
                event["bytes"] = data.hex()
        events[-1:-1] = [csts]
        events[33:33] = [csts]  # before a CREATE_SQ
        events[11:11] = [csts] * 40

    assert planted("binds", change) == []


def test_devices_that_answer_otherwise_make_no_difference() -> None:
    life = good_life()
    slower = [record for record in life.records if not isinstance(record, Completion | Interrupt)]
    slower = [replace(record, time_ns=2 * record.time_ns) for record in slower]
    assert differences(numbered(life.records), numbered(slower)) == []


def outstanding_together(order: tuple[int, ...]) -> list[Record]:
    """Three commands of two queues, sent in an order; answers in another."""
    life = Life()
    life.bring_up()
    pages = [life.map() for _ in range(3)]
    cids = {}
    for number in order:
        queue = AES if number == 2 else HSM
        cids[number] = life.submit(queue, cid=number, source=pages[number], destination=pages[number])
    for number in reversed(order):
        life.answer(AES if number == 2 else HSM, cids[number])
        life.consume(AES if number == 2 else HSM)
    return life.records


@given(st.permutations([0, 1, 2]), st.permutations([0, 1, 2]))
def test_commands_that_are_outstanding_together_have_no_order(one: list[int], other: list[int]) -> None:
    first, second = outstanding_together(tuple(one)), outstanding_together(tuple(other))
    assert differences(numbered(first), numbered(second)) == []


def test_a_field_of_a_command_among_others_is_a_difference() -> None:
    first = outstanding_together((0, 1, 2))
    second = list(first)
    place = max(n for n, record in enumerate(second) if isinstance(record, Entry) and record.queue == HSM)
    entry = second[place]
    assert isinstance(entry, Entry)
    data = bytearray(entry.data)
    data[HSM_SQE.fields["session_id"][1]] = 9  # type: ignore[index]
    second[place] = replace(entry, data=bytes(data))
    ((kind, _, _, value),) = told(differences(numbered(first), numbered(second)))
    assert (kind, value[0], value[2]) == ("changed", "session_id", 9)


def test_a_sequence_of_commands_has_an_order() -> None:
    def lived(sessions: list[int]) -> list[Record]:
        life = Life()
        life.bring_up()
        for session in sessions:
            life.command(HSM, session_id=session)
        return life.records

    assert differences(numbered(lived([1, 2])), numbered(lived([2, 1]))) != []


def test_what_one_recording_lacks_is_no_difference() -> None:
    events = RECORDED["commands"]
    without = [event for event in events if event["op"] not in ("prp", "sgl", "tail", "step", "cqe")]
    assert differences(records_of(events), records_of(without)) == []
