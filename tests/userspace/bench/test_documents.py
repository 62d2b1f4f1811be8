# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Samples, ratios, targets, reports and comparisons on made-up runs."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ihsm.bench.compare import CompareError, changes, load
from ihsm.bench.report import render
from ihsm.bench.results import FORMAT, Result, decoded_histogram, encoded_histogram, latency, summary, throughput
from ihsm.bench.sample import Sample, interleave, median_ratio, noise, timed
from ihsm.bench.svg import Axis, bar_chart, line_chart, number
from ihsm.bench.targets import TARGETS, Target


def run(operations: int, wall_s: float = 1.0, cpu_s: float = 0.5, device_s: float | None = None, **more: Any) -> Sample:
    return Sample(operations, wall_s, cpu_s, device_s, **more)


def test_costs_are_those_of_the_side_that_works() -> None:
    assert run(10, cpu_s=2.0).cpu_per_op_s == 0.2
    assert run(10, cpu_s=2.0, device_s=1.0).cpu_per_op_s == 0.1


def test_variants_take_turns_and_their_order_alternates() -> None:
    calls: list[str] = []

    def variant(name: str) -> Any:
        def runner(seconds: float) -> Sample:
            calls.append(name)
            return run(1)

        return runner

    series = interleave({"a": variant("a"), "b": variant("b")}, pairs=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert [len(samples) for samples in series.values()] == [3, 3]


def test_ratio_is_the_median_of_pairs() -> None:
    ours = [run(100, device_s=0.1), run(100, device_s=0.1), run(100, device_s=5.0)]
    theirs = [run(100, cpu_s=0.2), run(100, cpu_s=0.3), run(100, cpu_s=0.4)]
    assert median_ratio({"device": ours, "peer": theirs}, "device", "peer") == pytest.approx(2.0)


def test_noise_is_named() -> None:
    assert noise([run(100)] * 8) == []
    assert noise([run(100, involuntary=6000)] * 8) == ["6000 involuntary context switches per second"]
    assert "differs by" in noise([run(count) for count in (50, 60, 100, 150, 200)])[0]


def test_timed_keeps_every_latency() -> None:
    sample = timed(lambda: sum(range(1000)), 0.02, device=lambda: (0, 0))
    assert sample.latencies_ns is not None
    assert len(sample.latencies_ns) == sample.operations > 0
    assert sample.latencies_ns.sum() == pytest.approx(sample.wall_s * 1e9, rel=0.01)


def test_histograms_survive_their_text_form() -> None:
    latencies = np.array([1000] * 98 + [50_000, 2_000_000], np.uint32)
    histogram = decoded_histogram(encoded_histogram(latencies))
    assert histogram.get_total_count() == 100
    assert histogram.get_value_at_percentile(50) == pytest.approx(1000, rel=0.001)
    assert histogram.get_value_at_percentile(100) == pytest.approx(2_000_000, rel=0.001)


def test_every_target_can_be_judged() -> None:
    assert len({(target.id, target.number) for target in TARGETS}) == len(TARGETS) == 20
    at_least, at_most = Target("x", "", "peer", 2.0), Target("x", "", "value", 1.0, at_most=True)
    record = {"ratio": {"peer": 1.9}, "value": 0.5}
    assert (at_least.met(record), at_most.met(record)) == (False, True)
    assert at_least.met({"ratio": {}}) is None


@pytest.fixture
def document() -> dict[str, Any]:
    latencies = np.arange(1, 2000, dtype=np.uint32) * 10
    sample = run(1999, device_s=0.2, latencies_ns=latencies)
    results = [
        throughput(
            "gcm-4096", {"device": [run(1000, device_s=0.1)], "openssl": [run(500)]}, {"openssl": 2.5}, bytes=4096
        ),
        throughput("gcm-64", {"device": [run(9000, device_s=0.1)]}, {}, bytes=64),
        latency("ring-depth-1", {"device": [sample]}, {}, depth=1),
        latency("ring-depth-8", {"device": [sample]}, {}, depth=8),
        Result("idle-64", 0.5, "%", more={"megabytes_per_function": 1.0}),
    ]
    machine = {"time": "2030-01-01T00:00:00Z", "cpu": "A <fast> CPU", "vector_aes": False, "noise": ["others took 90%"]}
    return {"format": FORMAT, "results": [result.to_json() for result in results], "machine": machine, "targets": []}


def test_summary_has_load_and_percentiles(document: dict[str, Any]) -> None:
    record = document["results"][2]["runs"]["device"]
    assert record["device_cpu_ns"] == pytest.approx(0.2e9 / 1999)
    assert record["latency_us"]["p50"] == pytest.approx(10.0)
    assert record["latency_us"]["p100"] == pytest.approx(19.99)
    assert "device_cpu_ns" not in summary([run(1)])
    json.dumps(document)


def test_report_is_one_page_of_well_formed_charts(document: dict[str, Any]) -> None:
    page = render(document)
    assert "A &lt;fast&gt; CPU" in page
    assert "too noisy" in page
    assert "src=" not in page
    assert "href=" not in page
    charts = [part.split("</svg>")[0] + "</svg>" for part in page.split("<svg")[1:]]
    assert len(charts) >= 4
    for chart in charts:
        ElementTree.fromstring("<svg" + chart)


def test_charts_of_nothing_are_nothing() -> None:
    assert line_chart("t", {}, "x", "y") == ""
    assert bar_chart("t", {}, "x") == ""


@pytest.mark.parametrize("log", [False, True])
def test_axis(log: bool) -> None:
    axis = Axis([2.0, 700.0], 0, 100, log=log)
    assert all(0 <= axis.place(value) <= 100 for value in (2.0, 50.0, 700.0))
    assert axis.place(2.0) < axis.place(50.0) < axis.place(700.0)
    assert 2 <= len(axis.ticks()) <= 12


def test_numbers_are_short() -> None:
    assert [number(value) for value in (7, 1500, 2e6, 3.25e9)] == ["7", "1.5k", "2M", "3.25G"]


def test_changes_between_two_documents(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(document))
    old = load(path)
    for record in document["results"]:
        record["value"] *= 2
    rows = {row[0]: row for row in changes(old, document)}
    assert rows["gcm-4096"][3:] == ("+100.0%", "better")
    assert rows["ring-depth-1"][3:] == ("+100.0%", "worse")
    assert rows["idle-64"][4] == "worse"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}'])
def test_what_is_no_document_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(CompareError, match=r"old\.json"):
        load(path)
