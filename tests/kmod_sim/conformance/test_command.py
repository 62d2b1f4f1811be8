# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm conformance --driver model`."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ihsm.conformance.catalogue import all_scenarios
from ihsm.errors import EmbeddedDeviceError, OutputError
from support.commands import refused, run

ROOT = Path(__file__).parents[3]
SOME = ["load/mixed", "death/held", "fault/late-ready", "removal/idle", "shutdown/loaded"]
MODEL = ("conformance", "--driver", "model")


def test_some_scenarios_pass_and_are_reported(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    only = [word for name in SOME for word in ("--only", name)]
    done = run(*MODEL, *only, "--seed", "7", "--junit", str(report), "--json")
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["counts"] == {"passed": len(SOME), "failed": 0, "skipped": 0}
    found = [one["name"] for suite in record["suites"] for one in suite["scenarios"]]
    assert sorted(found) == sorted(SOME)
    suites = ElementTree.parse(report).getroot().findall("testsuite")
    assert [suite.get("name") for suite in suites] == [suite["name"] for suite in record["suites"]]
    properties = {one.get("name"): one.get("value") for one in suites[0].findall("properties/property")}
    assert properties["seed"] == "7"
    assert len(properties["module.sha256"] or "") == 64
    assert "kernel" in properties


def test_what_only_skips_is_no_success() -> None:
    done = run(*MODEL, "--only", "death/signal")
    assert done.exit_code == 3
    assert "skipped death/signal: this machine has no signal 10" in done.stdout


def test_without_a_device_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ihsm.embedded.EmbeddedDevice.__init__", _refuse)
    done = run(*MODEL, "--only", "load/*")
    assert done.exit_code == 3
    assert "no device here" in done.stdout


def _refuse(self: object) -> None:
    raise EmbeddedDeviceError("no device here")


def test_what_would_be_tried() -> None:
    lines = run(*MODEL, "--quick", "--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [one.name for one in all_scenarios() if one.is_quick]


def test_a_report_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    once = (*MODEL, "--only", "death/signal", "--junit")
    nowhere = refused(2, *once, str(tmp_path / "nowhere" / "report.xml"))
    assert "--junit" in nowhere, nowhere  # before anything is tried, or the file would be named alone

    def fail(path: Path, data: bytes) -> None:
        raise OutputError(f"{path}: full")

    monkeypatch.setattr("ihsm.cli.conformance.write_output", fail)
    done = run(*once, str(tmp_path / "report.xml"))
    assert done.exit_code == OutputError.exit_code
    assert "skipped death/signal" in done.stdout
    assert "full" in done.stderr


def test_wrong_options() -> None:
    assert "no scenario has such a name" in refused(2, *MODEL, "--only", "load/none")
    assert "needs --module" in refused(2, "conformance", "--driver", "module")


@pytest.mark.long
def test_the_full_run_finds_what_is_told_of_the_model() -> None:
    done = run(*MODEL, "--json")
    assert done.exit_code == 1
    failed = {
        (one["name"], finding["rule"])
        for suite in json.loads(done.stdout)["suites"]
        for one in suite["scenarios"]
        for finding in one["findings"]
    }
    told = set()
    for line in (ROOT / "docs" / "conformance.md").read_text().splitlines():
        if line.startswith(("| `removal/", "| `fault/")):
            names, rule = line.split("|")[1:3]
            told |= {(name.strip(" `"), rule.strip(" `")) for name in names.split(",")}
    assert failed == told


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_the_model_passes(seed: int) -> None:
    done = run(*MODEL, "--quick", "--seed", str(seed))
    assert done.exit_code == 0, done.stdout
