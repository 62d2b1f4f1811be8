# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A recording, judged by the rules. The same recording always has the same verdict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from ihsm.trace.files import Numbered, numbered
from ihsm.trace.records import Lost, Record
from ihsm.trace.rules.rule import Breach, Judge, Need, Rule
from ihsm.trace.rules.seen import Limits, Proof, Seen, added_by
from ihsm.trace.rules.state import FunctionState
from ihsm.trace.rules.table import RULES
from ihsm_abi.trace import NO_QUEUE

_LOOK_S: Final = 0.05
"""What should have happened is looked at so often, in the recording's time."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """A rule that could not be judged everywhere."""

    rule: Rule
    reason: Need
    number: int
    """Of the first record at which it could not."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What rules say of a recording."""

    records: int
    breaches: list[Breach]
    """In the order in which they were found."""
    undecided: list[Undecided]
    """In the order of the rules."""


def check(records: Iterable[Record], limits: Limits | None = None) -> list[Breach]:
    """The breaches of a recording, whose records are numbered as they come, from 1."""
    return judge(numbered(records), limits).breaches


def judge(records: Sequence[Numbered], limits: Limits | None = None, rules: Sequence[Rule] = RULES) -> Verdict:
    """Judge a recording.

    Args:
        records: in their order.
        limits: how long a driver has.
        rules: those that are judged.
    """
    court = _Court(limits or Limits(), rules, any(record.time_ns for _, record in records))
    begin_ns = next((record.time_ns for _, record in records if record.time_ns), 0)
    skipped_s = 0.0
    for number, record in records:
        skipped_s += added_by(record)
        real_s = max(0, record.time_ns - begin_ns) / 1e9
        court.hear(Seen(number, record, real_s + skipped_s, real_s))
    court.finish()
    undecided = [court.undecided[rule.name] for rule in rules if rule.name in court.undecided]
    return Verdict(len(records), court.breaches, undecided)


class _Court:
    """The rules over one recording, function by function."""

    def __init__(self, limits: Limits, rules: Sequence[Rule], has_times: bool) -> None:
        self.breaches: list[Breach] = []
        self.undecided: dict[str, Undecided] = {}
        self._limits, self._rules, self._has_times = limits, rules, has_times
        self._states: dict[int, FunctionState] = {}
        self._by_type: dict[type[Record], list[Rule]] = defaultdict(list)
        for rule in rules:
            for kind in rule.on:
                self._by_type[kind].append(rule)
        self._known: set[tuple[str, int, tuple[int, ...]]] = set()
        self._looked_s = 0.0
        self._last: Seen | None = None

    def hear(self, seen: Seen) -> None:
        """Judge a record, then take it."""
        record = seen.record
        if added_by(record):
            for state in self._states.values():
                state.moved = seen
        if seen.at_s - self._looked_s >= _LOOK_S:
            self._looked_s = seen.at_s
            self._look(seen)
        self._last = seen
        if record.function == NO_QUEUE:
            states = list(self._states.values())
        else:
            states = [self._states.setdefault(record.function, FunctionState(self._limits))]
        for state in states:
            for rule in self._by_type.get(type(record), ()):
                self._apply(rule, rule.judge, record.function, state, seen)
            was_alive = state.alive
            state.follow(seen)
            if isinstance(record, Lost) or (state.alive and not was_alive):
                self._note_all(state, seen)

    def finish(self) -> None:
        """There are no more."""
        if self._last is not None:
            self._look(self._last)
            for function, state in self._states.items():
                for rule in self._rules:
                    self._apply(rule, rule.finish, function, state, self._last)

    def _look(self, now: Seen) -> None:
        for function, state in self._states.items():
            for rule in self._rules:
                self._apply(rule, rule.clock, function, state, now)

    def _apply(self, rule: Rule, judged_by: Judge | None, function: int, state: FunctionState, seen: Seen) -> None:
        if judged_by is None or self._lacks(rule, state, seen, noted=judged_by is rule.judge):
            return
        for proof in judged_by(state, seen):
            self._found(rule, function, proof)

    def _lacks(self, rule: Rule, state: FunctionState, seen: Seen, *, noted: bool = True) -> bool:
        """Whether a rule cannot be judged now."""
        present = {
            Need.HISTORY: state.certain,
            Need.TIMES: self._has_times,
            Need.MAPPINGS: state.mappings_known,
        }
        for need in rule.needs:
            if not present[need]:
                if noted:
                    self.undecided.setdefault(rule.name, Undecided(rule, need, seen.number))
                return True
        return False

    def _note_all(self, state: FunctionState, seen: Seen) -> None:
        """Rules that cannot be decided are told even if nothing comes that they would look at."""
        for rule in self._rules:
            self._lacks(rule, state, seen)

    def _found(self, rule: Rule, function: int, proof: Proof) -> None:
        key = rule.name, function, tuple(seen.number for seen in proof.records)
        if key not in self._known:
            self._known.add(key)
            self.breaches.append(Breach(rule, function, proof.message, proof.records))
