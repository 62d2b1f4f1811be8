# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The interrupts that a client of a device under test gets."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable

from ihsm.bus.function import drain_event
from ihsm_abi.pci import MSIX_ENTRY_BYTES, MSIX_PBA_OFFSET, MSIX_VECTORS, Bar
from support.polled import PolledDriver
from support.waiting import HANG_S, stays, until

ANY = range(MSIX_VECTORS)


class Interrupts:
    """The client's eventfds, one per vector."""

    def __init__(self, driver: PolledDriver) -> None:
        self.driver = driver
        self.events = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(MSIX_VECTORS)]
        driver.function.enable_interrupts(self.events)

    def close(self) -> None:
        self.driver.function.disable_interrupts()
        for event in self.events:
            os.close(event)

    def arrives(self, vector: int) -> bool:
        ready, _, _ = select.select([self.events[vector]], [], [], HANG_S)
        return bool(ready) and drain_event(self.events[vector]) > 0

    def quiet(self, vectors: Iterable[int] = ANY) -> bool:
        """Whether nothing arrives for a moment on the given vectors."""
        return stays(lambda: not select.select([self.events[vector] for vector in vectors], [], [], 0)[0])

    def forget(self, vector: int) -> None:
        """What has arrived until now: a completion may be seen before its interrupt."""
        drain_event(self.events[vector])

    def becomes_pending(self, vectors: int) -> None:
        """Exactly these bits, each a moment after the completion that it belongs to."""
        until(lambda: self.pending == vectors, f"pending bits {vectors:#x}")

    def mask(self, vector: int, value: int) -> None:
        offset = vector * MSIX_ENTRY_BYTES
        self.driver.function.write_bar(Bar.MSIX, offset, 4, 0xFEE00000)
        self.driver.function.write_bar(Bar.MSIX, offset + 12, 4, value)

    @property
    def pending(self) -> int:
        return self.driver.function.read_bar(Bar.MSIX, MSIX_PBA_OFFSET, 4)
