# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What stands in for a responder behind a mailbox for data objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ihsm_device.vfu import ResetType


@dataclass
class Answering:
    """Answers as a test says, and remembers what came."""

    reply: Callable[[bytes], bytes | None] = lambda data: data
    events: list[bytes | ResetType] = field(default_factory=list)

    def answer(self, data_object: bytes) -> bytes | None:
        self.events.append(data_object)
        return self.reply(data_object)

    def status(self) -> dict[str, Any]:
        return {"objects": len(self.events)}

    def forget(self, cause: ResetType) -> None:
        self.events.append(cause)
