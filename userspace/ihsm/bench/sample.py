# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What one run measured, and runs of several variants in turn, so that all of them see the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

PAIRS: Final = 15
PAIR_SECONDS: Final = 0.1
NOISY_SPREAD: Final = 0.25
"""Interquartile range over median of a variant's cost above which the machine was too noisy."""
NOISY_SWITCHES_PER_S: Final = 5000.0
"""Involuntary context switches per second above which it was too busy."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. Times in seconds."""

    operations: int
    wall_s: float
    client_cpu_s: float
    device_cpu_s: float | None = None
    """CPU time of the whole device process; None for a run without device, or with one in another machine."""
    involuntary: int = 0
    """Involuntary context switches of both sides."""
    latencies_ns: NDArray[np.uint32] | None = field(default=None, repr=False)

    @property
    def wall_per_op_s(self) -> float:
        """Wall time per operation."""
        return self.wall_s / self.operations

    @property
    def cpu_per_op_s(self) -> float:
        """CPU time per operation of the side that does the work: the device, or the caller of a library."""
        return (self.client_cpu_s if self.device_cpu_s is None else self.device_cpu_s) / self.operations


Load = Callable[[], tuple[int, int]]
"""Reads CPU nanoseconds and involuntary context switches of the device so far."""
Runner = Callable[[float], Sample]
"""Runs one variant for at least so many seconds."""
Series = dict[str, list[Sample]]


def interleave(
    variants: Mapping[str, Runner],
    *,
    pairs: int = PAIRS,
    seconds: float = PAIR_SECONDS,
    advance: Callable[[], None] = lambda: None,
) -> Series:
    """Run all variants in turn, `pairs` rounds, each at least `seconds` long, the order reversed every other round.

    A round before them is not counted: it warms caches, page tables and the CPU's clock.
    """
    names = list(variants)
    for name in names:
        variants[name](seconds / 10)
    series: Series = {name: [] for name in names}
    for number in range(pairs):
        for name in names if number % 2 == 0 else reversed(names):
            series[name].append(variants[name](seconds))
        advance()
    return series


def median_ratio(
    series: Series, subject: str, peer: str, cost: Callable[[Sample], float] = lambda sample: sample.cpu_per_op_s
) -> float:
    """Median over the rounds of the peer's cost divided by the subject's: above 1 the subject is the better one."""
    pairs = zip(series[subject], series[peer], strict=True)
    return statistics.median(cost(theirs) / cost(ours) for ours, theirs in pairs)


def latencies_us(samples: list[Sample]) -> NDArray[np.float64]:
    """All latencies of a variant in microseconds."""
    recorded = [sample.latencies_ns for sample in samples if sample.latencies_ns is not None]
    return np.concatenate(recorded).astype(np.float64) / 1000 if recorded else np.empty(0)


def spread(samples: list[Sample]) -> float:
    """Interquartile range over median of the cost per operation."""
    costs = [sample.wall_per_op_s for sample in samples]
    if len(costs) < 4:
        return 0.0
    low, middle, high = statistics.quantiles(costs, n=4)
    return (high - low) / middle


def switches_per_s(samples: list[Sample]) -> float:
    """Involuntary context switches per second of running."""
    total_s = sum(sample.wall_s for sample in samples)
    return sum(sample.involuntary for sample in samples) / total_s if total_s else 0.0


def noise(samples: list[Sample]) -> list[str]:
    """Why figures from these runs should not be trusted; empty if they can be."""
    reasons = []
    if (found := spread(samples)) > NOISY_SPREAD:
        reasons.append(f"the middle half of the runs differs by {found:.0%}")
    if (rate := switches_per_s(samples)) > NOISY_SWITCHES_PER_S:
        reasons.append(f"{rate:.0f} involuntary context switches per second")
    return reasons


def timed(operation: Callable[[], object], seconds: float, *, device: Load | None = None) -> Sample:
    """Call a Python operation again and again for `seconds`; every call's latency is kept."""
    before = device() if device else (0, 0)
    latencies: list[int] = []
    cpu = time.thread_time()
    start = last = time.perf_counter_ns()
    end = start + int(seconds * 1e9)
    while last < end:
        operation()
        now = time.perf_counter_ns()
        latencies.append(now - last)
        last = now
    after = device() if device else (0, 0)
    return Sample(
        len(latencies),
        (last - start) / 1e9,
        time.thread_time() - cpu,
        (after[0] - before[0]) / 1e9 if device else None,
        after[1] - before[1],
        np.array(latencies, np.int64).clip(0, 2**32 - 1).astype(np.uint32),
    )
