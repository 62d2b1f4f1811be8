# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Samples, ratios, targets, reports and comparisons on made-up runs."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ihsm.bench.compare import Change, CompareError, changes, load
from ihsm.bench.machine import OtherLoad, cpu_flags, describe, smt_siblings
from ihsm.bench.quick import median_p50_ratio
from ihsm.bench.report import NOISY_MARK, render
from ihsm.bench.results import FORMAT, Result, decoded_histogram, encoded_histogram, latency, summary, throughput
from ihsm.bench.rings import _interval_ns
from ihsm.bench.sample import Sample, Watch, interleave, median_ratio, noise, ratios, timed
from ihsm.bench.setups import IdleReading
from ihsm.bench.svg import Axis, bar_chart, line_chart, number
from ihsm.bench.targets import TARGETS, Target, verdict


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


def test_few_runs_are_judged_by_switches_and_by_what_others_took() -> None:
    """They have no spread: 5.9 and 328 µs would look alike."""
    assert noise([run(100, involuntary=600, others=0.05)]) == []
    assert noise([run(100, involuntary=1100)]) == ["1100 involuntary context switches per second"]
    assert noise([run(100, others=0.4)]) == ["others took 40% of the CPUs"]
    assert noise([run(100, others=0.4)] * 3) == ["others took 40% of the CPUs"]
    assert noise([run(100, involuntary=1100, others=0.4)] * 8) == [], "these have a spread"
    assert latency("x", {"device": [run(1, others=0.5, latencies_ns=np.ones(1, np.uint32))]}, {}).to_json()["noisy"]


def test_a_timed_run_counts_its_callers_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([10, 17])
    monkeypatch.setattr("ihsm.bench.sample._own_switches", lambda: next(counts))
    device = iter([(0, 100), (0, 105)])
    assert timed(lambda: None, 0.001, device=lambda: next(device)).involuntary == 12


def test_what_others_took_is_told_from_what_both_sides_took(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    cpus = os.cpu_count() or 1
    for taken_s, own_s, device_s, share in (
        (1.0, 0.5, 0.5, 0.0),
        (2.0, 0.5, 0.5, 1.0 / (2 * cpus)),
        (0.1, 1.0, 1.0, 0.0),
    ):
        busy = iter([(0, 0), (int(taken_s * ticks), 0)])
        monkeypatch.setattr("ihsm.bench.machine.OtherLoad._read", staticmethod(lambda busy=busy: next(busy)))
        used = iter([0.0, own_s])
        monkeypatch.setattr("ihsm.bench.sample.time.process_time", lambda used=used: next(used))
        load = iter([(0, 0), (int(device_s * 1e9), 0)])
        assert Watch(lambda load=load: next(load)).end(2.0)[2] == pytest.approx(share)
    monkeypatch.undo()
    assert Watch(None).end(2.0)[2] is None, "a device whose load is out of reach"
    assert Watch(None).end(0.001, alone=True)[2] is None, "too short for ticks"


@pytest.mark.parametrize("operations", [0, 1])
def test_runs_too_short_for_a_clock_divide_by_nothing(operations: int) -> None:
    empty = Sample(operations, 0.0, 0.0, 0.0, 0, None, np.empty(0, np.uint32))
    for runs in ([empty], [empty] * 8):
        series = {"device": runs, "peer": runs}
        assert median_ratio(series, "device", "peer") is None
        assert ratios(series, "device") == {}
        assert noise(runs) == []
        for result in (throughput("x", series, {}), latency("x", series, {})):
            text = json.dumps(result.to_json(), allow_nan=False)
            assert json.loads(text)["value"] > 0
        assert median_p50_ratio(series, "device", "peer") == {}
    assert timed(lambda: None, 0.0).operations == 1
    assert OtherLoad().since_start(0.0, 0.0)["steal"] >= 0
    reading = IdleReading(SimpleNamespace(load=lambda: (0, 0)))  # type: ignore[arg-type]
    assert reading.percent() == 0.0


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, 1.0), (0.1, 0.001), (1e12, 1.0), (1000.0, 0.0)])
def test_an_open_loop_always_has_a_command_due(rate: float, seconds: float) -> None:
    assert 1 <= _interval_ns(rate, seconds) <= max(1, int(seconds * 1e9))


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
    assert len({(target.id, target.number) for target in TARGETS}) == len(TARGETS) == 43
    at_least, at_most = Target("x", "", "peer", 2.0), Target("x", "", "value", 1.0, at_most=True)
    record = {"ratio": {"peer": 1.9}, "value": 0.5}
    assert (at_least.met(record), at_most.met(record)) == (False, True)
    assert at_least.met({"ratio": {}}) is None


def test_what_is_noisy_gets_no_verdict() -> None:
    target = Target("x", "", "peer", 2.0)
    good, bad = {"ratio": {"peer": 2.1}}, {"ratio": {"peer": 1.9}}
    assert [verdict(target.judged(found, [])) for found in (good, bad, {"ratio": {}})] == [
        "met",
        "missed",
        "not measured",
    ]
    for found in (good, bad):
        assert verdict(target.judged(found, ["others took 60% of the CPUs"])) == "noisy"
        line = target.judged(found | {"noisy": ["device: the middle half of the runs differs by 30%"]}, [])
        assert (line["met"], line["noisy"], line["found"]) == (None, True, found["ratio"]["peer"])
    assert verdict(target.judged({"ratio": {}}, ["noise"])) == "not measured"


def test_the_machine_is_named_with_family_features_and_siblings(tmp_path: Path) -> None:
    machine = describe()
    json.dumps(machine, allow_nan=False)
    facts = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    family = machine["cpu_family"]
    for name, key in (("cpu family", "family"), ("model", "model"), ("stepping", "stepping"), ("vendor_id", "vendor")):
        found = re.search(rf"^{name}\s*: (.*)$", facts, re.MULTILINE)
        assert found is None or str(family[key]) == found[1]
    assert set(machine["cpu_features"]) <= cpu_flags()
    assert "aes" in machine["cpu_features"]
    assert sorted(cpu for core in machine["smt_siblings"] for cpu in core) == sorted(os.sched_getaffinity(0))
    for cpu, siblings in ((0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")):
        topology = tmp_path / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    assert smt_siblings([0, 1, 2, 3], tmp_path) == [[0, 2], [1, 3]]
    assert smt_siblings([0, 1], tmp_path) == [[0], [1]], "a sibling that we may not use"
    assert smt_siblings([7, 8], tmp_path) == [[7], [8]], "a system that does not tell"


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
@pytest.mark.parametrize("value", [0.25, 1.0, 100.0, 3000.0])
def test_a_chart_of_one_point_shows_it(value: float, log: bool) -> None:
    chart = line_chart("t", {"a": [(value, value)]}, "x", "y", log_x=log, log_y=log)
    root = ElementTree.fromstring(chart)
    [dot] = root.iter("circle")
    assert 0 <= float(dot.attrib["cx"]) <= 640
    assert 0 <= float(dot.attrib["cy"]) <= 320
    assert not list(root.iter("polyline"))
    assert len(Axis([value], 0, 100, log=log).ticks()) >= 2


def test_points_without_a_place_on_a_logarithmic_axis_are_left_out() -> None:
    chart = line_chart(
        "t", {"a": [(0.0, 1.0), (1.0, 0.0), (2.0, 3.0)], "b": [(0.0, 0.0)]}, "x", "y", log_x=True, log_y=True
    )
    assert len(list(ElementTree.fromstring(chart).iter("circle"))) == 1
    assert line_chart("t", {"a": [(0.0, 0.0)]}, "x", "y", log_x=True) == ""


def test_the_page_marks_what_is_noisy_and_names_its_clocks(document: dict[str, Any]) -> None:
    document["results"][0]["noisy"] = ["device: 9000 involuntary <switches> per second"]
    target = Target("gcm-4096", "AES", "openssl", 2.0)
    document["targets"] = [target.judged(document["results"][0], [])]
    document["changes"] = [one_change(record(), record(120.0)).to_json()]
    page = render(document)
    assert '<span class="noisy">noisy</span>' in page
    assert ">met<" not in page
    assert page.count(f"gcm-4096 {NOISY_MARK}") >= 2, "in the table and in a chart"
    assert "9000 involuntary &lt;switches&gt; per second" in page
    assert "Against openssl, CPU time" in page
    assert "per second of wall time" in page
    assert "changed: better" in page


def test_the_page_fits_narrow_screens(document: dict[str, Any]) -> None:
    page = render(document)
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert page.count("<table>") == page.count('<div class="wide"><table>') > 0
    assert (
        "figure { display: inline-block; width: 100%; max-width: 40rem; margin: 1rem 1rem 1rem 0; overflow-x: auto; }"
        in page
    )


@pytest.mark.parametrize("log", [False, True])
def test_axis(log: bool) -> None:
    axis = Axis([2.0, 700.0], 0, 100, log=log)
    assert all(0 <= axis.place(value) <= 100 for value in (2.0, 50.0, 700.0))
    assert axis.place(2.0) < axis.place(50.0) < axis.place(700.0)
    assert 2 <= len(axis.ticks()) <= 12


def test_numbers_are_short() -> None:
    assert [number(value) for value in (7, 1500, 2e6, 3.25e9)] == ["7", "1.5k", "2M", "3.25G"]


def record(value: float = 100.0, unit: str = "1/s", **more: Any) -> dict[str, Any]:
    return {"id": "x", "value": value, "unit": unit, "clock": "wall", "spread": 0.04, **more}


def one_change(before: dict[str, Any], now: dict[str, Any], *noise: str) -> Change:
    [change] = changes({"results": [before]}, {"results": [now], "machine": {"noise": list(noise)}})
    return change


@pytest.mark.parametrize(
    ("before", "now", "verdict"),
    [
        (record(), record(120.0), "changed: better"),
        (record(), record(80.0), "changed: worse"),
        (record(unit="us"), record(120.0, "us"), "changed: worse"),
        (record(unit="%"), record(80.0, "%"), "changed: better"),
        (record(), record(103.9), "unchanged"),
        (record(), record(96.1), "unchanged"),
        (record(), record(104.1), "changed: better"),
        (record(spread=0.5), record(140.0), "unchanged"),
        (record(), record(140.0, spread=0.5), "unchanged"),
        (record(spread=0.0), record(101.9, spread=0.0), "unchanged"),
        (record(spread=0.0), record(102.1, spread=0.0), "changed: better"),
        (record(spread=None), record(124.0), "unchanged"),
        (record(spread=None), record(126.0), "changed: better"),
        (record(noisy=["others took 50% of the CPUs"]), record(300.0), "noisy"),
        (record(), record(300.0, noisy=["others took 50% of the CPUs"]), "noisy"),
    ],
)
def test_a_change_is_what_the_spread_does_not_explain(
    before: dict[str, Any], now: dict[str, Any], verdict: str
) -> None:
    change = one_change(before, now)
    assert change.verdict == verdict
    assert change.row()[-1] == verdict
    json.dumps(change.to_json(), allow_nan=False)


def test_between_noisy_documents_there_is_no_verdict() -> None:
    change = one_change(record(), record(10.0), "others took 60% of the CPUs")
    assert change.verdict == "noisy"
    assert not change.fails(1.0)


@pytest.mark.parametrize(
    ("now", "percent", "fails"),
    [
        (89.0, 10.0, True),
        (91.0, 10.0, False),
        (97.0, 1.0, False),
        (95.0, 1.0, True),
        (95.0, 0.0, True),
        (200.0, 0.0, False),
    ],
)
def test_what_fails_is_worse_by_more_than_allowed_and_than_the_spread(now: float, percent: float, fails: bool) -> None:
    assert one_change(record(), record(now)).fails(percent) == fails


def test_changes_between_two_documents(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    document["machine"]["noise"] = []
    path.write_text(json.dumps(document))
    old = load(path)
    for found in document["results"]:
        found["value"] *= 2
    rows = {change.id: change for change in changes(old, document)}
    assert rows["gcm-4096"].verdict == "changed: better"
    assert rows["gcm-4096"].relative == pytest.approx(1.0)
    assert rows["ring-depth-1"].verdict == "changed: worse"
    assert rows["idle-64"].verdict == "changed: worse"


def test_spread_is_that_of_the_value_itself() -> None:
    """Of a latency: its medians, however long the runs took."""
    runs = [run(10, wall_s=wall, latencies_ns=np.full(10, 1000, np.uint32)) for wall in (1.0, 2.0, 3.0, 4.0)]
    assert latency("x", {"device": runs}, {}).spread == 0.0
    assert throughput("x", {"device": runs}, {}).spread == pytest.approx(1.0)
    assert throughput("x", {"device": runs[:3]}, {}).spread is None
    assert Result("x", 1.0, "%").spread is None


@pytest.mark.parametrize(
    "results",
    ["[1]", '[{"id": "x"}]', '[{"id": "x", "unit": "us", "value": "1"}]', '[{"id": 1, "unit": "us", "value": 1}]',
     '[{"id": "x", "unit": "us", "value": NaN}]', '[{"id": "x", "unit": "us", "value": 1, "spread": "a"}]', "{}"],
)  # fmt: skip
def test_results_of_other_types_are_refused(results: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(f'{{"format": {FORMAT}, "results": {results}}}')
    with pytest.raises(CompareError, match=r"old\.json: (its results are not|NaN is no JSON value)"):
        load(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}'])
def test_what_is_no_document_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(content)
    with pytest.raises(CompareError, match=r"old\.json"):
        load(path)
