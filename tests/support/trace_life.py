# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The life of a correct driver as records of a trace, made step by step: a test can leave one out, or do another.

Every ring and buffer has a mapping of its own, as behind an IOMMU. A step takes a millisecond.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from ihsm.trace.commands import form_of
from ihsm.trace.records import (
    Completion,
    Connect,
    Disconnect,
    DmaMap,
    DmaUnmap,
    Doorbell,
    Entry,
    Interrupt,
    Record,
    RegisterRead,
    RegisterWrite,
    Start,
)
from ihsm_abi import doorbells
from ihsm_abi.admin import AdminOpcode, CreateCqDw11, CreateSqDw11, Feature, Psf, QueueCounts, QueueDw10
from ihsm_abi.aes_queue import AesAttr, SglType
from ihsm_abi.hsm_queue import ControlKind, SessionControl
from ihsm_abi.pci import PAGE_BYTES, Bar
from ihsm_abi.registers import NSSR_MAGIC, Aqa, Cc, Csts, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from ihsm_abi.trace import FORMAT_VERSION, DmaProt, DoorbellKind

ENTRIES: Final = 4
BEGIN_NS: Final = 1_700_000_000_000_000_000
STEP_NS: Final = 1_000_000
SIZES: Final = Cc.of(cp_iosqes=6, cp_iocqes=4, fp_iosqes=7, fp_iocqes=6)
HSM, AES = 1, FIRST_AES_QUEUE_ID
ALL: Final = DmaProt.READ | DmaProt.WRITE | DmaProt.REACHABLE


@dataclass
class Place:
    """Where a queue pair of the driver is."""

    vector: int
    sq: int
    cq: int
    tail: int = 0
    head: int = 0
    slot: int = 0
    """In which the device writes next."""
    phase: int = 1
    cids: list[int] = field(default_factory=list)


class Life:
    """Records, in their order; each method adds those of a step."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.now_ns = BEGIN_NS
        self.places: dict[int, Place] = {}
        self._pages = 0x10_0000
        self._cid = 0
        self.add(Start(version=FORMAT_VERSION, ready=0, software="ihsm"))
        self.add(Connect(pid=1, program="driver"))

    def add(self, record: Record) -> None:
        self.now_ns += STEP_NS
        self.records.append(replace(record, time_ns=self.now_ns))

    def elapse(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)

    # Registers and memory

    def read(self, register: int, value: int, width: int = 4) -> None:
        self.add(RegisterRead(region=Bar.REGISTERS, offset=register, width=width, value=value))

    def write(self, register: int, value: int, width: int = 4) -> None:
        self.add(RegisterWrite(region=Bar.REGISTERS, offset=register, width=width, value=value))

    def map(self, size: int = PAGE_BYTES) -> int:
        self._pages += 4 * PAGE_BYTES
        self.add(DmaMap(iova=self._pages, size=size, prot=ALL))
        return self._pages

    def unmap(self, iova: int, size: int = PAGE_BYTES) -> None:
        self.add(DmaUnmap(iova=iova, size=size))

    # The controller

    def look(self, *, ready: int = 0, fatal: int = 0) -> None:
        self.read(Register.CSTS, Csts.of(rdy=ready, cfs=fatal))

    def tell_rings(self, *, aqa: int | None = None) -> None:
        place = self.places[ADMIN_QUEUE_ID] = Place(0, self.map(), self.map())
        self.write(Register.AQA, Aqa.of(asqs=ENTRIES - 1, acqs=ENTRIES - 1) if aqa is None else aqa)
        self.write(Register.ASQ, place.sq, 8)
        self.write(Register.ACQ, place.cq, 8)

    def enable(self, cc: int = 0) -> None:
        self.look()
        self.read(Register.CC, cc)
        self.tell_rings()
        self.write(Register.CC, cc | 1)
        self.read(Register.CAP, Register.CAP.reset, 8)
        self.look()
        self.look(ready=1)

    def identify(self) -> None:
        page = self.map()
        self.admin(AdminOpcode.IDENTIFY, prp1=page, dw10=1)
        self.unmap(page)

    def sizes(self, cc: int = SIZES) -> None:
        self.read(Register.CC, 1)
        self.write(Register.CC, cc | 1)

    def count(self, feature: Feature, pairs: int) -> None:
        self.admin(AdminOpcode.SET_FEATURES, dw10=feature, dw0=QueueCounts.of(sqs=pairs - 1, cqs=pairs - 1))

    def bring_up(self, cc: int = 0) -> None:
        self.enable(cc)
        self.identify()
        self.sizes()
        self.count(Feature.HSM_QUEUE_COUNT, 1)
        self.create(HSM, 1)
        self.count(Feature.AES_QUEUE_COUNT, 2)
        self.create(AES, 16)

    def disable(self) -> None:
        self.read(Register.CC, SIZES | 1)
        self.write(Register.CC, SIZES)
        self.look(ready=1)
        self.look()

    def subsystem_reset(self) -> None:
        self.write(Register.NSSR, NSSR_MAGIC)
        self.look()

    # Queues

    def create_cq(self, queue: int, vector: int, **fields: int) -> None:
        place = self.places[queue] = Place(vector, 0, self.map())
        dw11 = CreateCqDw11.of(**{"pc": 1, "ien": 1, "ivec": vector} | fields)
        self.admin(AdminOpcode.CREATE_CQ, prp1=place.cq, dw10=QueueDw10.of(id=queue, size=ENTRIES - 1), dw11=dw11)

    def create_sq(self, queue: int, **fields: int) -> None:
        place = self.places[queue]
        place.sq = place.sq or self.map()
        place.tail = 0
        dw11 = CreateSqDw11.of(**{"pc": 1, "qprio": 1, "cqid": queue} | fields)
        self.admin(AdminOpcode.CREATE_SQ, prp1=place.sq, dw10=QueueDw10.of(id=queue, size=ENTRIES - 1), dw11=dw11)

    def create(self, queue: int, vector: int) -> None:
        self.create_cq(queue, vector)
        self.create_sq(queue)

    def delete_sq(self, queue: int, **answer: Any) -> None:
        self.admin(AdminOpcode.DELETE_SQ, dw10=queue, **answer)

    def delete_cq(self, queue: int) -> None:
        self.admin(AdminOpcode.DELETE_CQ, dw10=queue)

    def release(self, queue: int) -> None:
        self.unmap(self.places[queue].sq)
        self.unmap(self.places[queue].cq)

    def leave(self) -> None:
        for queue in (AES, HSM):
            self.delete_sq(queue)
            self.delete_cq(queue)
            self.release(queue)
        self.disable()
        self.release(ADMIN_QUEUE_ID)

    def disconnect(self) -> None:
        self.add(Disconnect(pid=1))

    # Entries and completions

    def doorbell(self, queue: int, which: DoorbellKind, value: int) -> None:
        offset = (doorbells.cq_head_offset if which else doorbells.sq_tail_offset)(queue)
        self.add(Doorbell(offset=offset, value=value, queue=queue, which=which))

    def entry(self, queue: int, data: bytes, slot: int | None = None) -> None:
        place = self.places[queue]
        at = (place.tail - 1) % ENTRIES if slot is None else slot
        self.add(Entry(queue=queue, slot=at, data=data))

    def submit(self, queue: int, **fields: Any) -> int:
        """Ring and fetch an entry; its command id."""
        place = self.places[queue]
        self._cid = fields.pop("cid", (self._cid + 1) % 3)
        place.tail = (place.tail + 1) % ENTRIES
        self.doorbell(queue, DoorbellKind.SQ_TAIL, place.tail)
        self.entry(queue, sqe(queue, self._cid, **fields))
        return self._cid

    def answer(self, queue: int, cid: int, *, status: int = 0, phase: int | None = None, dw0: int = 0) -> None:
        """The completion of a command, and its interrupt."""
        self.complete(queue, cid, status=status, phase=phase, dw0=dw0)
        self.add(Interrupt(vector=self.places[queue].vector))

    def complete(self, queue: int, cid: int, *, status: int = 0, phase: int | None = None, dw0: int = 0) -> None:
        place, form = self.places[queue], form_of(queue)
        written = place.phase if phase is None else phase
        cqe = np.zeros(1, form.cqe)
        cqe[form.cid], cqe["sqhd"], cqe["psf"] = cid, place.tail, Psf.of(phase=written, status=status)
        if queue == ADMIN_QUEUE_ID:
            cqe["dw0"] = dw0
        vector = place.vector
        self.add(Completion(queue=queue, slot=place.slot, vector=vector, phase=written, data=cqe.tobytes()))
        place.slot += 1
        if place.slot == ENTRIES:
            place.slot, place.phase = 0, place.phase ^ 1

    def consume(self, queue: int) -> None:
        """The head doorbell for one completion."""
        place = self.places[queue]
        place.head = (place.head + 1) % ENTRIES
        self.doorbell(queue, DoorbellKind.CQ_HEAD, place.head)

    def admin(self, opcode: int, *, status: int = 0, dw0: int = 0, **fields: int) -> None:
        cid = self.submit(ADMIN_QUEUE_ID, opc=opcode, **fields)
        self.answer(ADMIN_QUEUE_ID, cid, status=status, dw0=dw0)
        self.consume(ADMIN_QUEUE_ID)

    def command(self, queue: int, **fields: Any) -> None:
        """One command from its buffers' mapping to their unmapping."""
        pages = [self.map(), self.map()]
        cid = self.submit(queue, source=pages[0], destination=pages[1], **fields)
        self.answer(queue, cid)
        self.consume(queue)
        for page in pages:
            self.unmap(page)

    def recover(self, queue: int) -> None:
        """Level 1 (spec 01 §8.2)."""
        self.look(ready=1)
        self.delete_sq(queue)
        self.create_sq(queue)


def sqe(queue: int, cid: int, source: int = 0, destination: int = 0, **fields: Any) -> bytes:
    """An entry that breaks no rule, with what is given changed."""
    form = form_of(queue)
    entry = np.zeros(1, form.sqe)
    entry[form.cid] = cid
    if queue == HSM:
        entry["src_len"] = entry["dst_len"] = 64
        entry["src_prp1"], entry["dst_prp1"] = source, destination
        entry["control"], entry["session_id"] = SessionControl.of(kind=ControlKind.IN_SESSION, id_valid=1), 3
    elif queue == AES:
        entry["attr"] = AesAttr.of(psdt=1, cmd_type=5)
        entry["src_len"] = entry["dst_len"] = 64
        entry["frame_type"] = 1
        for side, address in (("src", source), ("dst", destination)):
            entry[side]["addr"], entry[side]["len"], entry[side]["type"] = address, 16, SglType.LAST_SEGMENT << 4
    raw = fields.pop("raw", {})
    for name, value in fields.items():
        whole, _, part = name.partition("__")
        if part:
            entry[whole][part] = value
        else:
            entry[whole] = value
    data = bytearray(entry.tobytes())
    for at, byte in raw.items():
        data[at] = byte
    return bytes(data)


def good_life() -> Life:
    """A driver that comes, works, recovers a queue and the controller, leaves, and comes again."""
    life = Life()
    life.bring_up()
    for _ in range(ENTRIES + 1):  # the rings wrap, the phase turns
        life.command(HSM)
        life.command(AES)
    page = life.map()
    life.submit(HSM, source=page, destination=page)
    life.elapse(6.5)
    life.recover(HSM)
    life.unmap(page)
    life.command(HSM)
    life.disable()
    for queue in (AES, HSM, ADMIN_QUEUE_ID):
        life.release(queue)
    life.bring_up(SIZES)
    life.command(HSM)
    life.leave()
    life.bring_up(SIZES)
    life.leave()
    life.disconnect()
    return life
