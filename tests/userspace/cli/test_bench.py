# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm bench` around its measurements: comparison, the gate, what is printed of noise and clocks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ihsm.bench.results import FORMAT
from ihsm.bench.targets import Target
from ihsm.cli import bench as bench_cli
from support.commands import run


def document(value: float, *noise: str, **more: Any) -> dict[str, Any]:
    """Of one figure with a target, a rate with a spread of 5 %."""
    record = {
        "id": "gcm-4096", "value": value, "unit": "1/s", "clock": "wall", "spread": 0.05, "ratio": {"openssl": 2.5},
        "ratio_clock": "cpu", "runs": {}, "bytes": 4096, **more,
    }  # fmt: skip
    target = Target("gcm-4096", "AES", "openssl", 2.0).judged(record, noise)
    machine = {"noise": list(noise), "vector_aes": True, "time": "", "cpu": ""}
    return {"format": FORMAT, "seconds": 1.0, "results": [record], "machine": machine, "targets": [target]}


@pytest.fixture
def before(tmp_path: Path) -> Path:
    path = tmp_path / "before.json"
    path.write_text(json.dumps(document(100.0)))
    return path


def bench(monkeypatch: pytest.MonkeyPatch, now: dict[str, Any], *arguments: str | Path) -> Any:
    monkeypatch.setattr(bench_cli, "measure", lambda *arguments: now)
    return run("bench", *map(str, arguments))


def test_what_is_printed_names_clocks_and_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = bench(monkeypatch, document(100.0)).output.splitlines()
    assert lines[0].split() == ["id", "value", "time", "ratios", "(time)"]
    assert lines[1].split() == ["gcm-4096", "100", "1/s", "wall", "openssl", "2.50", "(cpu)"]
    assert lines[-1].split()[-1] == "met"


def test_a_noisy_document_has_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    result = bench(monkeypatch, document(100.0, "other load took 60% of the CPUs"))
    assert result.exit_code == 0
    assert " met" not in result.output
    assert "noisy" in result.output
    assert "The machine was too noisy for these figures: other load took 60% of the CPUs." in result.output


@pytest.mark.parametrize(
    ("now", "percent", "status", "text"),
    [
        (document(96.0), "0", 0, "unchanged"),
        (document(80.0), "25", 0, "changed: worse"),
        (document(80.0), "19", 1, "Error: gcm-4096 is worse by 20.0%; allowed: 19%"),
        (document(94.0), "0", 1, "Error: gcm-4096 is worse by 6.0%; allowed: 0%"),
        (document(500.0), "0", 0, "changed: better"),
        (document(10.0, "other load took 60% of the CPUs"), "0", 1, "Error: no figure could be judged"),
        (document(10.0, noisy=["others took 60% of the CPUs"]), "0", 1, "Error: no figure could be judged"),
        (document(10.0, id="another"), "0", 1, "Error: no figure could be judged"),
    ],
)
def test_the_gate(
    monkeypatch: pytest.MonkeyPatch, before: Path, now: dict[str, Any], percent: str, status: int, text: str
) -> None:
    result = bench(monkeypatch, now, "--compare", before, "--fail-on", percent)
    assert result.exit_code == status, result.output
    assert text in result.output


def test_with_json_the_changes_are_in_the_document(monkeypatch: pytest.MonkeyPatch, before: Path) -> None:
    result = bench(monkeypatch, document(80.0), "--json", "--compare", before)
    [change] = json.loads(result.output)["changes"]
    assert (change["id"], change["verdict"], change["clock"]) == ("gcm-4096", "changed: worse", "wall")
    assert change["change"] == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--fail-on", "5"), "--fail-on needs --compare"),
        (("--compare", "{before}", "--fail-on", "nan"), "nan is no number"),
        (("--compare", "{before}", "--fail-on", "-1"), "not in the range"),
        (("soak", "--seconds", "nan"), "nan is no number"),
    ],
)
def test_wrong_usage_is_found_before_the_work(
    monkeypatch: pytest.MonkeyPatch, before: Path, arguments: tuple[str, ...], text: str
) -> None:
    monkeypatch.setattr(bench_cli, "measure", lambda *arguments: pytest.fail("the work was begun"))
    result = run("bench", *(word.format(before=before) for word in arguments))
    assert result.exit_code == 2, result.output
    assert text in result.output
