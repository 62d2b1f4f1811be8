# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults that a device under test is told to show, and commands whose completions may be wrong."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from ihsm_abi.admin import AdminOpcode, Psf
from ihsm_abi.aes_queue import AesStatus
from ihsm_abi.doorbells import cq_head_offset
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.faults import Fault, Match, When
from ihsm_abi.hsm_queue import ControlKind, SessionControl
from ihsm_abi.pci import Bar
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from ihsm_device.faults import FaultSet
from support.devices import DeviceUnderTest
from support.polled import PolledDriver, Ring, admin_sqe, hsm_sqe
from support.rig import aes_entry
from support.waiting import first, stays, until

QUEUES: Final = (ADMIN_QUEUE_ID, 1, FIRST_AES_QUEUE_ID)
"""One of each kind."""
IN_SESSION: Final = SessionControl.of(kind=ControlKind.IN_SESSION, id_valid=1)
LONG_MS: Final = 3_600_000
"""Later than any test ends."""


class Shown:
    """The faults of a function."""

    def __init__(self, faults: FaultSet) -> None:
        self.faults = faults

    @classmethod
    def of(cls, device: DeviceUnderTest) -> Shown:
        return cls(device.device.faults)

    def show(
        self,
        action: FaultAction,
        *,
        match: Match | None = None,
        when: When | None = None,
        **parameters: int | str,
    ) -> int:
        return self.faults.add(Fault(action, match or Match(), when or When(), parameters))

    def until_hit(self, fault_id: int, hits: int = 1) -> None:
        until(lambda: self.faults.hits(fault_id) == hits, f"{hits} hits of fault {fault_id}")

    def stays_at(self, fault_id: int, hits: int) -> bool:
        return stays(lambda: self.faults.hits(fault_id) == hits)


class Sender:
    """Sends commands that succeed to a queue, or for AES that the device refuses, and looks at what comes back."""

    def __init__(self, driver: PolledDriver, queue_id: int) -> None:
        self.driver, self.queue_id = driver, queue_id
        self.right_status = AesStatus.INVALID_FIELD_GCM if queue_id >= FIRST_AES_QUEUE_ID else 0

    @property
    def ring(self) -> Ring:
        return self.driver.rings[self.queue_id]

    def entry(self, cid: int, **fields: int) -> bytes:
        driver = self.driver
        if self.queue_id == ADMIN_QUEUE_ID:
            return admin_sqe(AdminOpcode.GET_RES_CNT, cid, dw10=1)
        if self.queue_id >= FIRST_AES_QUEUE_ID:
            return aes_entry(cid, **fields)
        driver.page.view[:3] = np.frombuffer(b"abc", np.uint8)
        source, destination = driver.page.iova, driver.answer_page.iova
        return hsm_sqe(
            cid, source=source, source_bytes=3, destination=destination, destination_bytes=4096, control=IN_SESSION
        )

    def send(self) -> int:
        """Submit a command; its id."""
        cid = self.driver.next_cid()
        self.ring.submit(self.entry(cid))
        return cid

    def reap(self) -> tuple[int, int]:
        """Id and status of the next completion, of which all but the status must be right."""
        completion = self.ring.wait()
        return int(completion[self.ring.cid_field]), int(Psf(completion["psf"]).status)

    def right(self, cid: int) -> tuple[int, int]:
        """What `reap` gives when nothing is wrong."""
        return cid, self.right_status

    def run(self) -> None:
        """A command to which nothing happens."""
        cid = self.send()
        assert self.reap() == self.right(cid)

    @property
    def unanswered(self) -> bool:
        """Whether no completion comes for a moment."""
        return stays(lambda: self.ring.poll() is None)

    def raw(self) -> Any:
        """The next completion, whatever is wrong in it but its phase; it is taken."""
        ring = self.ring
        first(lambda: True if Psf(ring.cq[ring.head]["psf"]).phase == ring.phase else None, "a completion", every_s=0)
        return self.take()

    def take(self) -> Any:
        """What lies in the place of the next completion, as the driver takes it that goes on from there."""
        ring = self.ring
        completion = ring.cq[ring.head].copy()
        ring.head = (ring.head + 1) % ring.entries
        ring.phase ^= ring.head == 0
        ring.outstanding.discard(int(completion[ring.cid_field]))
        return completion

    def ring_head(self) -> None:
        """Tell the device what was taken by `raw` and `take`."""
        ring = self.ring
        ring.function.write_bar(Bar.DOORBELLS, cq_head_offset(ring.queue_id, ring.dstrd), 4, ring.head)
