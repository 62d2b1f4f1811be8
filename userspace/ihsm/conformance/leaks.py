# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a driver does not give back: it grows from bind to bind."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Final

from ihsm.conformance.findings import Finding, Witness

SETTLED: Final = 1
"""Binds at the beginning that may leave something for good, such as a cache that is made on first use."""
FEWEST: Final = 2
"""Steps of growth that are no accident."""
OBJECTS: Final = "objects of "
"""Begins the kinds that others of the kernel use too."""
FEWEST_OBJECTS: Final = 5
"""Steps of growth of such a kind that are no accident."""


def leak_findings(section: str, after_binds: Sequence[Mapping[str, int]]) -> list[Finding]:
    """Kinds of things of which there were more after each bind than after the one before."""
    counted = after_binds[SETTLED:]
    kinds = {kind for counts in counted for kind in counts}
    return [
        finding
        for kind in sorted(kinds)
        if (finding := _grown(section, kind, [counts.get(kind, 0) for counts in counted])) is not None
    ]


def _grown(section: str, kind: str, numbers: Sequence[int]) -> Finding | None:
    steps = [later - earlier for earlier, later in itertools.pairwise(numbers)]
    if len(steps) < (FEWEST_OBJECTS if kind.startswith(OBJECTS) else FEWEST) or min(steps) <= 0:
        return None
    text = f"{kind}: {numbers[0]} to {numbers[-1]} in {len(steps)} binds, more after each"
    return Finding(Witness.MACHINE, "bind-leaks", section, text, (f"after each bind: {', '.join(map(str, numbers))}",))
