# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The PIN policy of a partition (spec 04 §5.5, 06 §4.2): after every 1000 wrong credentials the delay grows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ihsm_abi.ddi import DdiStatus
from ihsm_device.hsm.errors import RefusedError

ATTEMPTS_PER_STEP: Final = 1000
MAX_DELAY_FACTOR: Final = 32
SECONDS_PER_STEP: Final = 60.0


@dataclass(slots=True)
class PinPolicy:
    """Counts wrong credentials; guarded by the partition's lock.

    The first 999 cost nothing, the 1000th and later ones a minute each, from the 2000th on two minutes, and so on.
    """

    now: Callable[[], float]
    """Monotonic clock in seconds."""
    attempts: int = 0
    delay_factor: int = 0
    locked_until: float | None = None

    def check(self) -> None:
        """Refuse with LoginFailed while a delay runs; nothing is counted then."""
        if self.locked_until is not None and self.now() < self.locked_until:
            raise RefusedError(DdiStatus.LoginFailed)

    def succeeded(self) -> None:
        """A right credential: forget all wrong ones."""
        self.attempts = self.delay_factor = 0
        self.locked_until = None

    def failed(self) -> None:
        """A wrong credential: count it and start the delay."""
        self.attempts += 1
        if self.attempts == ATTEMPTS_PER_STEP:
            self.attempts = 0
            # Beyond the longest delay the count starts over.
            self.delay_factor = (self.delay_factor + 1) % (MAX_DELAY_FACTOR + 1)
        self.locked_until = self.now() + self.delay_factor * SECONDS_PER_STEP
