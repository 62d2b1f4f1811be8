# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Drivers with one mistake each: the run names the rule that describes it, whatever the seed."""

from __future__ import annotations

import pytest

from ihsm.conformance.catalogue import all_scenarios
from ihsm.conformance.findings import Result
from ihsm.conformance.run import RunOptions, run
from ihsm_kmod.conformance import ModelDriver
from ihsm_kmod.hsm.module import HsmModule
from support.broken_drivers.hsm import BROKEN, Broken

SEEDS = 10
broken = pytest.mark.parametrize("broken", BROKEN, ids=[one.name for one in BROKEN])


def result(module: type[HsmModule], scenario: str, dma: str, seed: int) -> Result:
    """Of one scenario."""
    scenarios = [one for one in all_scenarios() if one.name == scenario]
    (suite,) = run(ModelDriver(module=module), scenarios, RunOptions(seed=seed, variants=[{"dma": dma}]))
    (found,) = suite.results
    assert not found.skipped
    return found


@broken
def test_the_rule_that_describes_it_is_named_with_its_proof(broken: Broken) -> None:
    found = result(broken.module, broken.scenario, broken.dma, 0)
    findings = [finding for finding in found.findings if finding.rule == broken.rule]
    assert findings, [str(finding) for finding in found.findings]
    assert all(finding.section and finding.proof and "\n" not in finding.message for finding in findings)


@pytest.mark.parametrize("dma", ["shared", "strict"])
def test_the_model_itself_breaks_none(dma: str) -> None:
    names = {one.scenario for one in BROKEN}
    scenarios = [one for one in all_scenarios() if one.name in names]
    (suite,) = run(ModelDriver(), scenarios, RunOptions(variants=[{"dma": dma}]))
    assert {one.name for one in suite.results} == names
    assert [str(finding) for one in suite.results for finding in one.findings] == []


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, SEEDS))
@broken
def test_all_seeds_agree(broken: Broken, seed: int) -> None:
    found = result(broken.module, broken.scenario, broken.dma, seed)
    assert broken.rule in {finding.rule for finding in found.findings}


@pytest.mark.long
@broken
def test_so_does_the_whole_run(broken: Broken) -> None:
    scenarios = [one for one in all_scenarios() if one.is_quick]
    suites = run(ModelDriver(module=broken.module), scenarios, RunOptions(variants=[{"dma": broken.dma}]))
    rules = {finding.rule for suite in suites for one in suite.results for finding in one.findings}
    assert broken.rule in rules
