# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Descriptors that interrupts signal."""

from __future__ import annotations

import os

from ihsm.errors import ResourceError


def eventfds(count: int) -> list[int]:
    """Non-blocking eventfds; none is left behind if there are too few descriptors."""
    events: list[int] = []
    try:
        for _ in range(count):
            events.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    except OSError as error:
        for event in events:
            os.close(event)
        raise ResourceError(f"{count} eventfds for the interrupts: {error.strerror}", error.errno or 0) from None
    return events
