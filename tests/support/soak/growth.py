# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a process has grown by: the slope of its figures over samples, by which a few that stand out mean nothing."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Final

WARM_UP: Final = 0.25
"""Part of the samples in which caches, heaps and pools find their size."""
LEAST_WARM_UP: Final = 40
"""Samples that it takes at least: each attack has come three times by then."""
FEWEST: Final = 8
"""Samples after that without which nothing is judged."""
MOST_PAIRED: Final = 300
"""Of more samples medians of neighbours are taken: pairs are as many as the square of them."""
ALLOWED: Final[Mapping[str, float]] = {
    "resident KiB": 4096.0,
    "arena bytes": 0.0,
    "vault bytes": 0.0,
    "threads": 0.0,
    "open files": 0.0,
}
"""Growth after the warm-up that is none: heaps settle, all else is counted."""
LOG_BYTES_A_SECOND: Final = 4000
LOG_BYTES: Final = 1 << 16
"""Most that attacks may have the device write: the latter at once, the former on and on."""


def slope(values: Sequence[float]) -> float:
    """Theil-Sen: the median of the slopes of all pairs, in units a sample."""
    slopes = [
        (values[later] - values[first]) / (later - first)
        for first in range(len(values))
        for later in range(first + 1, len(values))
    ]
    return statistics.median(slopes) if slopes else 0.0


def thinned(values: Sequence[float]) -> list[float]:
    """At most `MOST_PAIRED` values: medians of as many neighbours as it takes."""
    width = -(-len(values) // MOST_PAIRED)
    return [statistics.median(values[at : at + width]) for at in range(0, len(values), width)]


def growth(values: Sequence[float]) -> float | None:
    """What a figure grows by from the end of the warm-up to the last sample; None with too few samples to tell."""
    settled = values[max(LEAST_WARM_UP, int(len(values) * WARM_UP)) :]
    if len(settled) < FEWEST:
        return None
    few = thinned(settled)
    return slope(few) * (len(few) - 1)


def judged(samples: Mapping[str, Sequence[float]]) -> list[str]:
    """A line for each figure that is not flat."""
    lines = []
    for name, allowed in ALLOWED.items():
        grown = growth(samples[name])
        if grown is not None and grown > allowed:
            lines.append(f"{name} grow by {grown:.1f} after the warm-up, {allowed:g} allowed")
    return lines
