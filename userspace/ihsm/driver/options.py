# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What the user of the driver can choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ihsm.arguments import checked_fields, integer
from ihsm.bus.arena import MAX_ARENA_BYTES
from ihsm.driver.queue_pair import MAX_ENTRIES, MIN_ENTRIES
from ihsm.errors import ArgumentError

DEFAULT_TIMEOUT_S: Final = 60.0
"""Longer than any operation takes; RSA key generation is the slowest."""
MAX_SPIN_US: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class DriverOptions:
    """How the driver sets up a function."""

    interrupts: bool = True
    """False: completions are polled and queues are created without interrupts."""
    spin_us: float = 20.0
    """How long a waiting caller looks at the ring before it blocks, in microseconds."""
    hsm_queues: int | None = None
    """At most so many HSM queues; None: all that the function has."""
    aes_queues: int | None = None
    hsm_entries: int = 32
    aes_entries: int = 256
    buffer_bytes: int = 4 << 20
    """DMA memory for `Controller.allocate` and the one-shot AES calls, besides rings and message buffers; a call that
    needs more gets it for its own time, which takes longer."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    """Time limit of a command unless the call says otherwise, in seconds."""

    def __post_init__(self) -> None:
        """Check types and ranges; ArgumentError, ArgumentTypeError."""
        checked_fields(self)
        for name in ("hsm_entries", "aes_entries"):
            integer("DriverOptions", name, getattr(self, name), MIN_ENTRIES, MAX_ENTRIES)
        for name in ("hsm_queues", "aes_queues", "buffer_bytes"):
            value = getattr(self, name)
            if value is not None:
                integer("DriverOptions", name, value, 0, MAX_ARENA_BYTES)
        if not 0 <= self.spin_us <= MAX_SPIN_US:
            raise ArgumentError("DriverOptions", "spin_us", f"{self.spin_us:g}, 0 to {MAX_SPIN_US} possible")
