# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The catalogue of scenarios: complete, and consistent in itself."""

from __future__ import annotations

import re

import pytest

from ihsm.conformance.catalogue import all_scenarios
from ihsm.conformance.log import is_quiet
from ihsm.conformance.scenario import AwaitHit, Finish, Inject, Kill, Op, Program, Run, Scenario, Start
from ihsm.trace.rules import RULES
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.fault_table import ACTIONS

SCENARIOS = all_scenarios()
NAMES = [scenario.name for scenario in SCENARIOS]
every = pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)


@pytest.mark.parametrize("action", ACTIONS)
def test_every_fault_of_the_table_has_a_quick_scenario(action: FaultAction) -> None:
    found = [one for one in SCENARIOS if any(fault.action is action for fault in one.faults)]
    assert any(one.is_quick for one in found), [one.name for one in found]


def test_names_are_unique_and_grouped() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(re.fullmatch(r"[a-z]+/[a-z0-9-]+", name) for name in NAMES), NAMES


def test_those_that_spoil_their_machine_come_last() -> None:
    assert [one.spoils for one in SCENARIOS] == sorted(one.spoils for one in SCENARIOS)


@every
def test_a_section_of_the_specification_is_named(scenario: Scenario) -> None:
    assert re.match(r"0\d (§?\d|§?[A-G]\.\d|[A-G]\b)", scenario.section), scenario.section
    assert scenario.about


@every
def test_steps_refer_to_what_was_started_and_to_faults_that_stand(scenario: Scenario) -> None:
    running: set[str] = set()
    stands = False
    for step in scenario.steps:
        match step:
            case Start(name, _):
                assert name not in running
                running.add(name)
            case Finish(name, _):
                running.remove(name)
            case Kill(name, _):
                assert name in running
            case Inject():
                stands = True
            case AwaitHit():
                assert stands
    assert not running or scenario.spoils, "a program that nobody waits for"


@every
def test_what_it_uses_it_needs(scenario: Scenario) -> None:
    used = {step.what.op for step in scenario.steps if isinstance(step, Run | Start) and isinstance(step.what, Program)}
    assert used - {Op.INFORMATION} <= scenario.needs | ({Op.RESET} if Op.SUBSYSTEM_RESET in used else set()) | used & {
        Op.SUBSYSTEM_RESET
    }


@every
def test_only_rules_that_there_are_are_tolerated(scenario: Scenario) -> None:
    assert set(scenario.tolerates) <= {rule.name for rule in RULES}
    assert all(scenario.tolerates.values())


def test_a_driver_may_speak_of_errors_where_something_is_wrong() -> None:
    assert is_quiet(next(one for one in SCENARIOS if one.name == "bind/used"))
    assert not any(is_quiet(one) for one in SCENARIOS if one.name.startswith(("fault/", "removal/")))
