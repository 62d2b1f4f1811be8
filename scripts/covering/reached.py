# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What of the code was reached, be it lines or branches, and how that is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

K = TypeVar("K", int, tuple[int, int])
Reached = Mapping[str, Mapping[K, bool]]
"""By file, relative to the checkout, and by line or branch: whether it was reached."""


def share(reached: Reached[K]) -> float:
    """How much of everything was reached, of 100; 0 of nothing, for then nothing was measured."""
    everything = [hit for file in reached.values() for hit in file.values()]
    return 100 * sum(everything) / len(everything) if everything else 0


def table(reached: Reached[K], names: Callable[[Sequence[K]], str], unit: str) -> Iterator[str]:
    """A line for each file, with what was not reached of it, if it has anything to reach; then the whole."""
    for file, parts in reached.items():
        if parts:
            missed = names([part for part, hit in sorted(parts.items()) if not hit])
            yield f"{share({file: parts}):5.1f} %  {file}{': ' if missed else ''}{missed}"
    yield f"{share(reached):5.1f} %  of {sum(map(len, reached.values()))} {unit}"
