# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Dialects: how a device of one kind wants its messages (spec 03 §6)."""

from typing import TypeVar

from ihsm_abi.ddi import DeviceKind
from ihsm_abi.mbor import MborMap

M = TypeVar("M", bound=MborMap)


class Dialect:
    """Converts messages for a device of one kind; while the kind is unknown nothing is converted."""

    def __init__(self, kind: DeviceKind | None = None) -> None:
        """`kind` is what GetDeviceInfo reports."""
        self.kind = kind
        self._physical = None
        if kind is DeviceKind.Physical:
            # Has to do with most messages, which who only asks for the kind does without.
            from ihsm.ddi import transforms

            self._physical = transforms

    def to_wire(self, request: M) -> M:
        """Request in the device's forms; MborEncodeError if a field has none."""
        return self._physical.to_wire(request) if self._physical else request

    def to_host(self, response: M) -> M:
        """Response in the host's forms; MborDecodeError if a field has none."""
        return self._physical.to_host(response) if self._physical else response
