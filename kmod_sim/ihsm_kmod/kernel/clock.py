# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where a kernel's time comes from: the system's clock, or one that stands still until a test moves it."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from typing import Final, Protocol

HZ: Final = 250
"""Jiffies in a second (Linux: CONFIG_HZ)."""
SECOND_NS: Final = 1_000_000_000
JIFFY_NS: Final = SECOND_NS // HZ


def jiffies_of(seconds: float) -> int:
    """Whole jiffies that last at least so long."""
    return -(-round(seconds * SECOND_NS) // JIFFY_NS)


class Sleepers(Protocol):
    """Whoever looks at the clock again when it has moved."""

    def wake(self) -> None:
        """The clock shows another time."""


class Clock(ABC):
    """Time since some moment, in nanoseconds. Several kernels may share a clock."""

    def __init__(self) -> None:
        """Nobody looks at it."""
        self._changed = threading.Condition()
        self._sleepers: list[Sleepers] = []

    @abstractmethod
    def now_ns(self) -> int:
        """Time, which never goes back."""

    @abstractmethod
    def look_after_s(self, until_ns: int | None) -> float | None:
        """Real seconds after which one that sleeps until then looks at the clock by itself; None: never."""

    @abstractmethod
    def has_stopped(self, real_since_s: float) -> bool:
        """Whether a sleeper since that `time.monotonic` sleeps for good, because nobody moves the clock."""

    @property
    def jiffies(self) -> int:
        """Whole jiffies that have passed."""
        return self.now_ns() // JIFFY_NS

    def attach(self, sleepers: Sleepers) -> None:
        """Have them woken whenever the clock was moved."""
        with self._changed:
            self._sleepers.append(sleepers)

    def detach(self, sleepers: Sleepers) -> None:
        """Undo `attach`."""
        with self._changed:
            self._sleepers.remove(sleepers)

    @abstractmethod
    def advance(self, seconds: float) -> None:
        """Move on, and wake whoever was waiting for that."""

    def _wake(self) -> None:
        with self._changed:
            sleepers = list(self._sleepers)
        # Not under the clock's lock: who sets a timer holds the scheduler's already.
        for some in sleepers:
            some.wake()

    @abstractmethod
    def add_timer(self, expires: int) -> None:
        """Something is due at that jiffy."""

    @abstractmethod
    def remove_timer(self, expires: int) -> None:
        """It has come, or is not wanted any more."""


class SystemClock(Clock):
    """The clock of this machine."""

    def __init__(self) -> None:
        """It starts at 0."""
        super().__init__()
        self._start_ns = time.monotonic_ns()

    def now_ns(self) -> int:
        """Nanoseconds since it was made, and what it was moved by."""
        return time.monotonic_ns() - self._start_ns

    def look_after_s(self, until_ns: int | None) -> float | None:
        """When that moment has come."""
        return None if until_ns is None else max(0.0, (until_ns - self.now_ns()) / SECOND_NS)

    def has_stopped(self, real_since_s: float) -> bool:
        """Never."""
        return False

    def advance(self, seconds: float) -> None:
        """Be ahead by so much more, for who does not want to wait."""
        with self._changed:
            self._start_ns -= round(seconds * SECOND_NS)
        self._wake()

    def add_timer(self, expires: int) -> None:
        """Nothing to do: nobody waits for timers of this clock."""

    def remove_timer(self, expires: int) -> None:
        """Nothing to do."""


class StillClock(Clock):
    """A clock that shows the same time until `advance` moves it: a test of a 30 s time-out takes no time."""

    def __init__(self, patience_s: float = 300.0) -> None:
        """It starts at 0.

        A task that has slept for `patience_s` real seconds, in which nobody has woken it or moved the clock, is a hung
        task: a test that forgets to move the clock fails, and does not hang.
        """
        super().__init__()
        self._now_ns = 0
        self._patience_s = patience_s
        self._timers: Counter[int] = Counter()

    def now_ns(self) -> int:
        """Sum of all that it was moved by."""
        return self._now_ns

    def look_after_s(self, until_ns: int | None) -> float | None:
        """When the test's time is up."""
        return self._patience_s

    def has_stopped(self, real_since_s: float) -> bool:
        """Whether the test has been waited for long enough."""
        return time.monotonic() - real_since_s >= self._patience_s

    def add_timer(self, expires: int) -> None:
        """Something is due at that jiffy; a test may wait for that."""
        with self._changed:
            self._timers[expires] += 1
            self._changed.notify_all()

    def remove_timer(self, expires: int) -> None:
        """It has come, or is not wanted any more."""
        with self._changed:
            self._timers[expires] -= 1
            if not self._timers[expires]:
                del self._timers[expires]

    @property
    def timers(self) -> list[float]:
        """In how many seconds something is due, soonest first."""
        with self._changed:
            return [(expires - self.jiffies) / HZ for expires in sorted(self._timers)]

    def advance(self, seconds: float) -> None:
        """Move on, and wake whoever was waiting for that."""
        self._advance_ns(round(seconds * SECOND_NS))

    def await_timer(self, seconds: float, count: int = 1) -> None:
        """Wait, in real time, until a task sleeps, or a delayed work is due, exactly so long from the clock's now.

        Args:
            seconds: how long.
            count: how many of them are waited for.

        Raises:
            TimeoutError: none does within the clock's patience; it names what is due instead.
        """
        expires = self.jiffies + jiffies_of(seconds)
        with self._changed:
            if not self._changed.wait_for(lambda: self._timers[expires] >= count, self._patience_s):
                due = [f"{other:g} s" for other in self.timers]
                raise TimeoutError(f"nothing is due in {seconds:g} s, but: {', '.join(due) or 'nothing at all'}")

    def expire(self, seconds: float, count: int = 1) -> None:
        """Wait for so many timers that are due in `seconds`, and move the clock to that moment."""
        expires = self.jiffies + jiffies_of(seconds)
        self.await_timer(seconds, count)
        self._advance_ns(expires * JIFFY_NS - self._now_ns)

    def _advance_ns(self, nanoseconds: int) -> None:
        with self._changed:
            self._now_ns += nanoseconds
        self._wake()
