# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm bench trace`: what is made of its pairs of runs, and the build without hooks that it measures beside."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ihsm.bench import trace as bench
from ihsm.bench.device import BenchDevice
from ihsm.bench.setups import Place
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import ControlError
from ihsm.trace.live import TraceReader
from ihsm_abi.control import ControlErrorCode
from support.commands import succeed, uri
from support.native_builds import native_build


def test_pairs_are_compared_one_by_one() -> None:
    """A machine that becomes slower meanwhile does not count as a cost."""
    slower = [1.0, 2.0, 3.0, 4.0]
    found = bench._more(
        {
            "off": [100 * by for by in slower],
            "on": [100 * by + 50 for by in slower],
            "without": [80 * by for by in slower],
        }
    )
    assert found["on_extra_ns"] == pytest.approx(50)
    assert found["off_over_without"] == pytest.approx(1.25)
    assert found["pairs_spread"] == pytest.approx(0)
    assert found["off"] == pytest.approx(1.25)


def test_what_lies_within_the_spread_of_the_pairs_is_no_difference() -> None:
    found = bench._more({"off": [90.0, 100.0, 120.0, 130.0], "on": [1.0] * 4, "without": [100.0] * 4})
    assert found["off_over_without"] == pytest.approx(1.1)
    assert found["pairs_spread"] > 0.1
    assert found["off"] == 1.0


def test_without_a_build_to_compare_with() -> None:
    assert "off" not in bench._more({"off": [1.0, 1.0], "on": [2.0, 2.0]})


def test_a_run_measures_and_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(bench.WITHOUT, raising=False)
    monkeypatch.setattr(bench, "PAIRS", 1)
    told: list[str] = []
    (result,) = bench.trace(Place(), told.append)
    record: dict[str, Any] = result.to_json()
    assert told == [record["id"]] == ["trace-gcm-64"]
    assert record["value"] > 0
    assert set(record["serving_cpu_ns"]) == set(record["runs"]) == {"off", "on"}
    assert all(cost > 0 for cost in record["serving_cpu_ns"].values())


def test_a_build_with_hooks_is_not_taken_for_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bench.WITHOUT, "with.so")
    device = BenchDevice()
    try:
        with pytest.raises(bench.OtherBuildError, match="trace_hooks"):
            bench._require_bare(device)
    finally:
        device.close()


@pytest.mark.long
def test_a_build_without_hooks_works_and_refuses_traces() -> None:
    module = native_build("without-hooks", "-Dtrace_hooks=false")
    before = os.environ.get("PYTHONPATH")
    with bench._other_module(module):
        device = EmbeddedDevice()
    with device:
        assert os.environ.get("PYTHONPATH") == before
        assert b"28 passed, 0 failed" in succeed("selftest", "--device", uri(device))
        with pytest.raises(ControlError, match="trace_hooks") as refused:
            TraceReader(device.socket_path)
        assert refused.value.code == ControlErrorCode.NO_TRACES
