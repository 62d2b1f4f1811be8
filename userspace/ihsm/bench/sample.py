# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What one run measured, and runs of several variants in turn, so that all of them see the same machine."""

from __future__ import annotations

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ihsm.bench.machine import BUSY_SHARE, OtherLoad

PAIRS: Final = 15
PAIR_SECONDS: Final = 0.1
NOISY_SPREAD: Final = 0.25
"""Interquartile range over median of a variant's cost above which the machine was too noisy."""
NOISY_SWITCHES_PER_S: Final = 5000.0
"""Involuntary context switches per second above which it was too busy."""
FEW: Final = 4
"""Fewer runs than these have no spread to be judged by."""
NOISY_SWITCHES_OF_FEW_PER_S: Final = 1000.0
"""The same for few runs: a quiet machine shows up to 550, from the device's own threads."""
LEAST_CPU_S: Final = 0.25
"""CPU time of all CPUs together below which the system's ticks, 10 ms, do not tell who took how much of it."""
LEAST_S: Final = 1e-9
"""Shortest time that a clock tells apart: what took less took this long, so that every run has a rate."""


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
    others: float | None = None
    """Share of all CPUs' time that neither side took, and that was not idle; None where that is not known."""
    latencies_ns: NDArray[np.uint32] | None = field(default=None, repr=False)

    @property
    def wall_per_op_s(self) -> float:
        """Wall time per operation."""
        return max(self.wall_s, LEAST_S) / max(self.operations, 1)

    @property
    def cpu_per_op_s(self) -> float:
        """CPU time per operation of the side that does the work: the device, or the caller of a library."""
        return (self.client_cpu_s if self.device_cpu_s is None else self.device_cpu_s) / max(self.operations, 1)

    @property
    def client_cpu_per_op_s(self) -> float:
        """CPU time per operation of the caller."""
        return self.client_cpu_s / max(self.operations, 1)


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
) -> float | None:
    """Median over the rounds of the peer's cost divided by the subject's: above 1 the subject is the better one.

    Rounds too short for a cost to be seen do not count; None if all of them are.
    """
    pairs = [(cost(ours), cost(theirs)) for ours, theirs in zip(series[subject], series[peer], strict=True)]
    found = [theirs / ours for ours, theirs in pairs if ours > 0 and theirs > 0]
    return statistics.median(found) if found else None


def ratios(
    series: Series, subject: str, cost: Callable[[Sample], float] = lambda sample: sample.cpu_per_op_s
) -> dict[str, float]:
    """`median_ratio` to every other variant that has one."""
    found = {peer: median_ratio(series, subject, peer, cost) for peer in series if peer != subject}
    return {peer: value for peer, value in found.items() if value is not None}


def latencies_us(samples: list[Sample]) -> NDArray[np.float64]:
    """All latencies of a variant in microseconds."""
    recorded = [sample.latencies_ns for sample in samples if sample.latencies_ns is not None]
    return np.concatenate(recorded).astype(np.float64) / 1000 if recorded else np.empty(0)


def spread(samples: list[Sample]) -> float:
    """Interquartile range over median of the wall time per operation; 0 for few runs."""
    return spread_of([sample.wall_per_op_s for sample in samples]) or 0.0


def spread_of(values: Sequence[float]) -> float | None:
    """Interquartile range over median; None for few values."""
    if len(values) < FEW:
        return None
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle if middle else 0.0


def switches_per_s(samples: list[Sample]) -> float:
    """Involuntary context switches per second of running."""
    total_s = sum(sample.wall_s for sample in samples)
    return sum(sample.involuntary for sample in samples) / total_s if total_s else 0.0


def noise(samples: list[Sample]) -> list[str]:
    """Why figures from these runs should not be trusted; empty if they can be."""
    reasons = []
    if (found := spread(samples)) > NOISY_SPREAD:
        reasons.append(f"the middle half of the runs differs by {found:.0%}")
    few = len(samples) < FEW
    if (rate := switches_per_s(samples)) > (NOISY_SWITCHES_OF_FEW_PER_S if few else NOISY_SWITCHES_PER_S):
        reasons.append(f"{rate:.0f} involuntary context switches per second")
    others = [sample.others for sample in samples if sample.others is not None]
    if few and others and (share := statistics.mean(others)) > BUSY_SHARE:
        reasons.append(f"others took {share:.0%} of the CPUs")
    return reasons


class Watch:
    """The device's load and that of others from now on, of one run."""

    def __init__(self, device: Load | None) -> None:
        """Start."""
        self._device, self._others, self._cpu_s = device, OtherLoad(), time.process_time()
        self._before = device() if device else (0, 0)

    def end(self, wall_s: float, *, alone: bool = False) -> tuple[float | None, int, float | None]:
        """CPU seconds and involuntary switches of the device, share of others; `alone`: there is no device.

        The share is not known of a device whose load is out of reach, nor of a short run.
        """
        after = self._device() if self._device else (0, 0)
        device_s = (after[0] - self._before[0]) / 1e9 if self._device else None
        others = None
        if (self._device or alone) and wall_s * (os.cpu_count() or 1) >= LEAST_CPU_S:
            own_s = time.process_time() - self._cpu_s + (device_s or 0.0)
            others = self._others.since_start(own_s, wall_s)["other_load"]
        return device_s, after[1] - self._before[1], others


def timed(operation: Callable[[], object], seconds: float, *, device: Load | None = None) -> Sample:
    """Call a Python operation again and again for `seconds`; every call's latency is kept."""
    watch = Watch(device)
    latencies: list[int] = []
    cpu, switches = time.thread_time(), _own_switches()
    start = last = time.perf_counter_ns()
    end = start + int(seconds * 1e9)
    while last < end or not latencies:
        operation()
        now = time.perf_counter_ns()
        latencies.append(now - last)
        last = now
    own_cpu_s, own_switches, wall_s = time.thread_time() - cpu, _own_switches() - switches, (last - start) / 1e9
    device_s, device_switches, others = watch.end(wall_s, alone=device is None)
    return Sample(
        len(latencies),
        wall_s,
        own_cpu_s,
        device_s,
        own_switches + device_switches,
        others,
        np.array(latencies, np.int64).clip(0, 2**32 - 1).astype(np.uint32),
    )


def _own_switches() -> int:
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
