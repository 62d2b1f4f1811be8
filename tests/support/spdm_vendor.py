# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A protocol inside vendor-defined messages, for tests: it gives back what it gets, and remembers."""

from __future__ import annotations

from ihsm_abi.spdm.codes import ErrorCode
from ihsm_device.trust import RefusedError


class Protocol:
    """Only in a session."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, int | None]] = []
        self.ended = 0

    def answer(self, payload: bytes, session_id: int | None) -> bytes:
        self.asked.append((payload, session_id))
        if session_id is None:
            raise RefusedError(ErrorCode.SESSION_REQUIRED)
        return payload[::-1]

    def session_ended(self) -> None:
        self.ended += 1
