# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm conformance --driver module`: small drivers in a guest, one without a mistake and some with one each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ihsm.errors import EmbeddedDeviceError
from ihsm.guest.kernel import find_kernel
from ihsm.guest.modbuild import build_modules
from support.commands import run
from support.guests import MODULES

pytestmark = pytest.mark.guest

EXERCISE = """#!/bin/sh
echo 1 > "/sys/bus/pci/devices/$IHSM_FUNCTION/exercise"
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Drivers by their mistake."""
    built = build_modules(MODULES / "broken", find_kernel(), tmp_path_factory.mktemp("bench"))
    return {file.stem.removeprefix("bench_"): file for file in built}


@pytest.fixture(scope="module")
def exercise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What uses them."""
    file = tmp_path_factory.mktemp("exercise") / "exercise"
    file.write_text(EXERCISE)
    file.chmod(0o755)
    return file


def conformance(module: Path, exercise: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and the scenarios' results by name."""
    done = run("conformance", "--driver", "module", "--module", module, "--exercise", exercise, "--json", *words)
    record = json.loads(done.stdout)
    return done.exit_code, {one["name"]: one for suite in record["suites"] for one in suite["scenarios"]}


def rules(result: dict[str, Any]) -> set[str]:
    return {finding["rule"] for finding in result["findings"]}


@pytest.mark.long
def test_a_good_one_passes(modules: dict[str, Path], exercise: Path) -> None:
    words = ("--only", "load/one", "--only", "fault/drop-completion", "--only", "shutdown/idle")
    status, found = conformance(modules["good"], exercise, *words)
    assert status == 0, found
    verdicts = {name: result["verdict"] for name, result in found.items()}
    assert verdicts == {"load/one": "passed", "fault/drop-completion": "skipped", "shutdown/idle": "passed"}
    assert "did not come to where" in found["fault/drop-completion"]["skipped"]


@pytest.mark.long
def test_without_a_device_nothing_runs(
    modules: dict[str, Path], exercise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ihsm.conformance.run.EmbeddedDevice", _refuse)
    status, found = conformance(modules["good"], exercise, "--quick")
    assert status == 3
    assert {result["verdict"] for result in found.values()} == {"skipped"}
    assert "no device here" in {result["skipped"] for result in found.values()}


def _refuse() -> None:
    raise EmbeddedDeviceError("no device here")


@pytest.mark.long
@pytest.mark.parametrize(
    ("mistake", "rule"),
    [("oops", "log-oops"), ("warn", "log-warning"), ("leak", "bind-leaks"), ("keepirq", "log-warning")],
)
def test_each_with_its_reason(modules: dict[str, Path], exercise: Path, mistake: str, rule: str) -> None:
    status, found = conformance(modules[mistake], exercise, "--only", "bind/again")
    assert status == 1
    assert rule in rules(found["bind/again"]), found


@pytest.mark.long
def test_one_that_sleeps_for_ever(modules: dict[str, Path], exercise: Path) -> None:
    status, found = conformance(modules["hang"], exercise, "--only", "load/one")
    assert status == 1
    assert rules(found["load/one"]) >= {"call-ends", "log-hung-task"}, found


@pytest.mark.long
def test_the_rest_goes_on_in_a_new_guest(modules: dict[str, Path], exercise: Path) -> None:
    words = ("--only", "bind/again", "--only", "load/one", "--only", "shutdown/idle")
    status, found = conformance(modules["oops"], exercise, *words)
    assert status == 1
    assert {name: result["verdict"] for name, result in found.items()} == dict.fromkeys(found, "failed")
    assert len(found) == 3


@pytest.mark.long
def test_a_good_one_passes_quickly(modules: dict[str, Path], exercise: Path) -> None:
    status, found = conformance(modules["good"], exercise, "--quick")
    assert status == 0, {name: rules(result) for name, result in found.items() if result["findings"]}
