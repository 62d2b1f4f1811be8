# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Results as they are printed, stored and compared."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from ihsm.bench.sample import LEAST_S, Sample, latencies_us, noise, spread_of

FORMAT: Final = 1
"""Version of the JSON document."""
WALL: Final = "wall"
CPU: Final = "cpu"
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9, 100.0)
HIGHEST_NS: Final = 60_000_000_000
SIGNIFICANT_DIGITS: Final = 3


def encoded_histogram(latencies_ns: NDArray[np.uint32]) -> str:
    """HDR histogram of nanoseconds in the format's standard compressed text form."""
    histogram = HdrHistogram(1, HIGHEST_NS, SIGNIFICANT_DIGITS)
    values, counts = np.unique(np.maximum(latencies_ns, 1), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        histogram.record_value(value, count)
    encoded = histogram.encode()
    return encoded.decode() if isinstance(encoded, bytes) else str(encoded)


def decoded_histogram(text: str) -> HdrHistogram:
    """The histogram of `encoded_histogram`."""
    return HdrHistogram.decode(text)


@dataclass
class Result:
    """One figure with what it rests on."""

    id: str
    value: float
    unit: str
    ratio: dict[str, float] = field(default_factory=dict)
    """By peer. Throughput: the peer's cost divided by ours; latency: ours divided by the primitives'."""
    clock: str = WALL
    """What the value is measured in: WALL or CPU time."""
    ratio_clock: str = CPU
    """What the ratios are ratios of: WALL or CPU time."""
    p50_us: float | None = None
    runs: dict[str, list[Sample]] = field(default_factory=dict, repr=False)
    """Samples by variant; the first is the device."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further facts, such as parameters of the run."""
    doubts: list[str] = field(default_factory=list)
    """Why this machine cannot tell, however quiet it is."""

    @property
    def spread(self) -> float | None:
        """Interquartile range over median of the value's own runs; None where there are too few."""
        samples = next(iter(self.runs.values()), [])
        if self.p50_us is None:
            return spread_of([sample.wall_per_op_s for sample in samples])
        kept = [sample.latencies_ns for sample in samples if sample.latencies_ns is not None]
        return spread_of([float(np.median(values)) for values in kept if len(values)])

    @property
    def noisy(self) -> list[str]:
        """Why the figure should not be trusted; empty if it can be."""
        return self.doubts + [f"{name}: {reason}" for name, samples in self.runs.items() for reason in noise(samples)]

    def to_json(self) -> dict[str, Any]:
        """Plain values; histograms as text."""
        record: dict[str, Any] = {
            "id": self.id,
            "value": self.value,
            "unit": self.unit,
            "clock": self.clock,
            "spread": self.spread,
            "ratio": self.ratio,
            "ratio_clock": self.ratio_clock,
        }
        if self.p50_us is not None:
            record["p50_us"] = self.p50_us
        record |= self.more
        record["runs"] = {name: summary(samples) for name, samples in self.runs.items()}
        if self.noisy:
            record["noisy"] = self.noisy
        return record


def summary(samples: list[Sample]) -> dict[str, Any]:
    """Cost per operation (medians over the runs), load, and latencies if they were kept."""
    record: dict[str, Any] = {
        "runs": len(samples),
        "operations": sum(sample.operations for sample in samples),
        "operations_per_s": statistics.median(1 / sample.wall_per_op_s for sample in samples),
        "wall_ns": statistics.median(sample.wall_per_op_s for sample in samples) * 1e9,
        "client_cpu_ns": statistics.median(sample.client_cpu_per_op_s for sample in samples) * 1e9,
        "involuntary_switches": sum(sample.involuntary for sample in samples),
        "seconds": sum(sample.wall_s for sample in samples),
    }
    device = [sample.cpu_per_op_s for sample in samples if sample.device_cpu_s is not None]
    if device:
        record["device_cpu_ns"] = statistics.median(device) * 1e9
    kept = [sample.latencies_ns for sample in samples if sample.latencies_ns is not None]
    if any(len(latencies) for latencies in kept):
        values = latencies_us(samples)
        record["latency_us"] = {f"p{p:g}": float(np.percentile(values, p)) for p in PERCENTILES}
        record["histogram_ns"] = encoded_histogram(np.concatenate(kept))
    return record


def throughput(
    id: str, runs: dict[str, list[Sample]], ratio: dict[str, float], *, ratio_clock: str = CPU, **more: Any
) -> Result:
    """A rate: median operations per second of wall time of the first variant."""
    rate = statistics.median(1 / sample.wall_per_op_s for sample in next(iter(runs.values())))
    return Result(id, rate, "1/s", ratio, ratio_clock=ratio_clock, runs=runs, more=more)


def latency(id: str, runs: dict[str, list[Sample]], ratio: dict[str, float], **more: Any) -> Result:
    """A latency: the median of all of the first variant's operations."""
    values = latencies_us(next(iter(runs.values())))
    p50 = float(np.median(values)) if len(values) else LEAST_S * 1e6
    return Result(id, p50, "us", ratio, ratio_clock=WALL, p50_us=p50, runs=runs, more=more)
