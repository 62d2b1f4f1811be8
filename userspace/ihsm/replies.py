# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What comes back of many HSM commands that were sent together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ihsm.errors import IhsmError


@dataclass(slots=True, eq=False)
class Replies:
    """Responses in the order of their requests."""

    messages: NDArray[np.uint8]
    """A row each, shape (n, room); what lies behind a response's length means nothing."""
    lengths: NDArray[np.int64]
    """Bytes of each response, shape (n,); 0 where there is none."""
    errors: dict[int, IhsmError] = field(default_factory=dict)
    """What became of each command that has no response, by its position."""

    @classmethod
    def none_yet(cls, count: int, room: int) -> Self:
        """Room for `count` responses of up to `room` bytes."""
        return cls(np.zeros((count, room), np.uint8), np.zeros(count, np.int64))

    def message(self, position: int) -> bytes:
        """One response."""
        return self.messages[position, : self.lengths[position]].tobytes()

    def put(self, position: int, message: bytes) -> None:
        """A response has come, whose bytes beyond the room are lost."""
        kept = message[: self.messages.shape[1]]
        self.messages[position, : len(kept)] = np.frombuffer(kept, np.uint8)
        self.lengths[position] = len(kept)
