# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Doorbells: a store into the mapped page where there is one, else a posted write (spec 01 §3)."""

from __future__ import annotations

import contextlib
import os

from ihsm import _native, forks
from ihsm._native import ffi, lib
from ihsm.bus import PciFunction
from ihsm_abi.doorbells import POLLER_ASLEEP_OFFSET
from ihsm_abi.pci import Bar


class Doorbells:
    """BAR2 of a function."""

    def __init__(self, function: PciFunction) -> None:
        """Map the page if the function offers that."""
        self._function = function
        mapping = function.map_bar(Bar.DOORBELLS)
        self._page = None if mapping is None else ffi.from_buffer("uint8_t[]", mapping, require_writable=True)
        self._event = None if mapping is None else function.write_event(Bar.DOORBELLS)
        forks.watch(self)

    def forked(self) -> None:
        """In a child of fork(): what is left is the function, which refuses."""
        self.close()

    @property
    def page(self) -> _native.Pointer[_native.uint8_t] | None:
        """The mapped page."""
        return self._page

    @property
    def event(self) -> int | None:
        """Eventfd of a poller that watches the page, if one does."""
        return self._event

    def ring(self, offset: int, value: int) -> None:
        """Write one doorbell; everything written to memory before is visible to the device first."""
        if self._page is None:
            self._function.write_bar(Bar.DOORBELLS, offset, 4, value, posted=True)
            return
        if self._event is None:
            lib.ihsm_doorbell(self._page, offset, value)
        elif lib.ihsm_doorbell_watched(self._page, offset, value, POLLER_ASLEEP_OFFSET):
            # A counter that would overflow has not been read yet: the poller is awake or about to be.
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """Let go of the page, so that the function can unmap it."""
        self._page = None
        self._event = None
