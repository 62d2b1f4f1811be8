# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a driver does to a function, recorded in the format of the traces in tests/data: a function in front of another.

Accesses are recorded as they are made, entries and what they name when their doorbell is rung, before the device below
has seen it. The device's answers are not recorded, but for the values of reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ihsm.bus.function import PciFunction
from ihsm_abi import doorbells
from ihsm_abi.admin import ADMIN_SQE, AdminOpcode, QueueDw10
from ihsm_abi.aes_queue import GCM_SQE, SGL_DESCRIPTOR, AesAttr, Cipher, SglType
from ihsm_abi.hsm_queue import HSM_SQE, MAX_REQUEST_BYTES
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Aqa, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from support.pass_through import PassThrough

Event = dict[str, Any]
PRP_BYTES: Final = 64
"""So much of a request is recorded."""


@dataclass
class Ring:
    """A submission ring as its doorbells and its creation tell of it."""

    base: int
    entries: int
    tail: int = 0


class Recorder(PassThrough):
    """Passes everything on to `inner` and keeps a record of it in `events`."""

    def __init__(self, inner: PciFunction) -> None:
        super().__init__(inner)
        self.events: list[Event] = []
        self._registers: dict[int, int] = {}
        self._rings: dict[int, Ring] = {}

    def take(self) -> list[Event]:
        """The events since the last call."""
        with self._lock:
            events, self.events = self.events, []
            return events

    def memory(self, iova: int, size: int) -> bytes:
        """What the driver has written at a DMA address."""
        return bytes(self.place(iova, size))

    def read_bar(self, bar: int, offset: int, width: int) -> int:
        value = self.inner.read_bar(bar, offset, width)
        self._note({"op": "read", "bar": bar, "off": offset, "size": width, "value": value})
        return value

    def write_bar(self, bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        with self._lock:
            self.events.append({"op": "write", "bar": bar, "off": offset, "size": width, "value": value})
            if bar == Bar.DOORBELLS:
                self._rung(offset, value)
            else:
                self._registers[offset] = value
                if offset == Register.ASQ:
                    self._rings.clear()
        self.inner.write_bar(bar, offset, width, value, posted=posted)

    def _note(self, event: Event) -> None:
        with self._lock:
            self.events.append(event)

    def _ring(self, queue_id: int) -> Ring | None:
        if queue_id == ADMIN_QUEUE_ID and queue_id not in self._rings and Register.ASQ in self._registers:
            entries = Aqa(self._registers[Register.AQA]).asqs + 1
            self._rings[queue_id] = Ring(self._registers[Register.ASQ], entries)
        return self._rings.get(queue_id)

    def _rung(self, offset: int, tail: int) -> None:
        doorbell = doorbells.decode(offset)
        assert doorbell is not None
        if doorbell.is_cq_head:
            return
        ring = self._ring(doorbell.queue_id)
        if ring is None:
            return  # a device that was reset meanwhile looks at nothing
        size = (GCM_SQE if doorbell.queue_id >= FIRST_AES_QUEUE_ID else HSM_SQE).itemsize
        while ring.tail != tail:
            entry = self.memory(ring.base + ring.tail * size, size)
            ring.tail = (ring.tail + 1) % ring.entries
            self.events.append({"op": "sqe", "sqid": doorbell.queue_id, "bytes": entry.hex()})
            if doorbell.queue_id == ADMIN_QUEUE_ID:
                self._admin(entry)
            elif doorbell.queue_id < FIRST_AES_QUEUE_ID:
                self._request(doorbell.queue_id, entry)
            else:
                self._lists(doorbell.queue_id, entry)

    def _admin(self, entry: bytes) -> None:
        sqe = np.frombuffer(entry, ADMIN_SQE)[0]
        if sqe["opc"] == AdminOpcode.CREATE_SQ:
            queue = QueueDw10(int(sqe["dw10"]))
            self._rings[queue.id] = Ring(int(sqe["prp1"]), queue.size + 1)

    def _request(self, queue_id: int, entry: bytes) -> None:
        sqe = np.frombuffer(entry, HSM_SQE)[0]
        length = int(sqe["src_len"])
        if sqe["src_prp1"] and length <= MAX_REQUEST_BYTES:
            content = self.memory(int(sqe["src_prp1"]), min(length, PRP_BYTES)).hex()
            event = {"sqid": queue_id, "cid": int(sqe["cid"]), "addr": int(sqe["src_prp1"]), "len": length}
            self.events.append({"op": "prp", **event, "bytes": content})

    def _lists(self, queue_id: int, entry: bytes) -> None:
        sqe = np.frombuffer(entry, GCM_SQE)[0]
        common = {"sqid": queue_id, "cid": int(sqe["cmd_id"])}
        for direction in ("src", "dst"):
            descriptor = sqe[direction]
            while descriptor["len"] and descriptor["type"] >> 4 in (SglType.SEGMENT, SglType.LAST_SEGMENT):
                address, size = int(descriptor["addr"]), int(descriptor["len"])
                segment = self.memory(address, size)
                self.events.append({"op": "sgl", **common, "dir": direction, "addr": address, "bytes": segment.hex()})
                descriptor = np.frombuffer(segment, SGL_DESCRIPTOR)[-1]
        tail = int(sqe["tail_src_len"])
        if AesAttr(int(sqe["attr"])).cipher == Cipher.GCM and tail:
            address = int(sqe["tail_src_addr"])
            self.events.append({"op": "tail", **common, "addr": address, "bytes": self.memory(address, tail).hex()})

    def reset(self) -> None:
        self._note({"op": "reset", "type": 2})
        self._registers.clear()
        self._rings.clear()
        self.inner.reset()
