# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A driver that polls phase bits and checks what every completion must get right: cid, phase, sqhd, sqid."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np

from ihsm.bus.arena import DmaArena
from ihsm.bus.function import PciFunction
from ihsm.trace.commands import form_of
from ihsm_abi.admin import ADMIN_SQE, AdminOpcode, AdminStatus, CreateCqDw11, CreateSqDw11, Psf, QueueDw10
from ihsm_abi.doorbells import cq_head_offset, sq_tail_offset
from ihsm_abi.hsm_queue import HSM_SQE, HsmCommandWord, SessionControl
from ihsm_abi.pci import Bar
from ihsm_abi.registers import NSSR_MAGIC, Aqa, Cap, Cc, Csts, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID
from support.waiting import first, until

ARENA_BYTES: Final = 1 << 20


class Ring:
    """One queue pair in guest memory."""

    def __init__(self, function: PciFunction, arena: DmaArena, queue_id: int, entries: int, dstrd: int = 0) -> None:
        self.function, self.queue_id, self.entries, self.dstrd = function, queue_id, entries, dstrd
        form = form_of(queue_id)
        self.sqe_type, self.cqe_type, self.cid_field = form.sqe, form.cqe, form.cid
        self.sq_memory = arena.allocate_pages(entries * self.sqe_type.itemsize)
        self.cq_memory = arena.allocate_pages(entries * self.cqe_type.itemsize)
        self.sq = self.sq_memory.view[: entries * self.sqe_type.itemsize].reshape(entries, -1)
        self.cq = self.cq_memory.view[: entries * self.cqe_type.itemsize].view(self.cqe_type)
        self.tail = self.head = self.sqhd = 0
        self.phase = 1
        self.outstanding: set[int] = set()

    def restart_sq(self) -> None:
        """The submission queue has been made anew: indexes from 0, the completion queue goes on."""
        self.tail = self.sqhd = 0
        self.outstanding.clear()

    def forget_outstanding(self) -> None:
        """The driver knows by other ways that the device has read everything."""
        self.sqhd = self.tail
        self.outstanding.clear()

    @property
    def full(self) -> bool:
        return (self.tail + 1) % self.entries == self.sqhd

    def put(self, sqe: bytes) -> None:
        """Write an entry without ringing."""
        assert not self.full, f"queue {self.queue_id} is full: sqhd {self.sqhd}, tail {self.tail}"
        entry = np.frombuffer(sqe, self.sqe_type, 1)[0]
        self.outstanding.add(int(entry[self.cid_field]))
        self.sq[self.tail] = np.frombuffer(sqe, np.uint8)
        self.tail = (self.tail + 1) % self.entries

    def ring(self) -> None:
        self.function.write_bar(Bar.DOORBELLS, sq_tail_offset(self.queue_id, self.dstrd), 4, self.tail)

    def submit(self, sqe: bytes) -> None:
        self.put(sqe)
        self.ring()

    def poll(self) -> np.void | None:
        """Next completion if its phase says that it is there; the head doorbell is rung for it."""
        entry = self.cq[self.head]
        if Psf(entry["psf"]).phase != self.phase:
            return None
        completion: np.void = entry.copy()
        self._check(completion)
        self.head = (self.head + 1) % self.entries
        self.phase ^= self.head == 0
        self.function.write_bar(Bar.DOORBELLS, cq_head_offset(self.queue_id, self.dstrd), 4, self.head)
        return completion

    def _check(self, completion: np.void) -> None:
        cid, sqhd, sqid = (int(completion[name]) for name in (self.cid_field, "sqhd", "sqid"))
        assert cid in self.outstanding, f"queue {self.queue_id}: cid {cid} not in {sorted(self.outstanding)}"
        assert sqid == self.queue_id
        assert sqhd < self.entries
        moved, submitted = (sqhd - self.sqhd) % self.entries, (self.tail - self.sqhd) % self.entries
        assert moved <= submitted, f"sqhd went from {self.sqhd} to {sqhd} with the tail at {self.tail}"
        self.sqhd = sqhd
        self.outstanding.remove(cid)

    def wait(self) -> np.void:
        return first(self.poll, f"completion of queue {self.queue_id}", every_s=0)

    def run(self, sqe: bytes) -> np.void:
        self.submit(sqe)
        return self.wait()

    def release(self) -> None:
        self.sq_memory.release()
        self.cq_memory.release()


@dataclass(frozen=True)
class AdminCompletion:
    status: AdminStatus
    dw0: int

    @classmethod
    def of(cls, completion: np.void) -> AdminCompletion:
        return cls(AdminStatus(Psf(completion["psf"]).status), int(completion["dw0"]))


def admin_sqe(opcode: int, cid: int, *, dw10: int = 0, dw11: int = 0, prp1: int = 0) -> bytes:
    entry = np.zeros((), ADMIN_SQE)
    entry["opc"], entry["cid"], entry["dw10"], entry["dw11"], entry["prp1"] = opcode, cid, dw10, dw11, prp1
    return entry.tobytes()


def hsm_sqe(
    cid: int,
    *,
    source: int,
    source_bytes: int,
    destination: int,
    destination_bytes: int,
    control: int = 0,
    session_id: int = 0,
    opcode: int = 0,
) -> bytes:
    entry = np.zeros((), HSM_SQE)
    entry["command"], entry["cid"] = HsmCommandWord.of(opc=opcode), cid
    entry["src_len"], entry["src_prp1"] = source_bytes, source
    entry["dst_len"], entry["dst_prp1"] = destination_bytes, destination
    entry["control"], entry["session_id"] = control, session_id
    return entry.tobytes()


@dataclass(frozen=True)
class HsmAnswer:
    sc: int
    message: bytes
    flags: SessionControl
    session_id: int
    short_app_id: int


class PolledDriver:
    """Brings a controller up and runs commands, without interrupts."""

    def __init__(self, function: PciFunction, *, admin_entries: int = 16, entries: int = 16) -> None:
        self.function, self.admin_entries, self.entries = function, admin_entries, entries
        self.arena = function.allocate_arena(ARENA_BYTES)
        self.page = self.arena.allocate_pages(4096)
        self.answer_page = self.arena.allocate_pages(8192)
        self.rings: dict[int, Ring] = {}
        self._cids = itertools.count()

    def read(self, register: Register, width: int = 4) -> int:
        return self.function.read_bar(Bar.REGISTERS, register, width)

    def write(self, register: Register, value: int, width: int = 4) -> None:
        self.function.write_bar(Bar.REGISTERS, register, width, value)

    @property
    def csts(self) -> Csts:
        return Csts(self.read(Register.CSTS))

    @property
    def admin(self) -> Ring:
        return self.rings[ADMIN_QUEUE_ID]

    def wait_ready(self, target: int) -> None:
        """Ready-wait of spec 01 §4.1, but for CAP's time limit: a test does not measure."""
        until(lambda: self.csts.rdy == target, f"RDY = {target}", every_s=0)
        assert not self.csts.cfs

    def enable(self) -> None:
        self._release_rings()
        dstrd = Cap(self.read(Register.CAP, 8)).dstrd
        admin = Ring(self.function, self.arena, ADMIN_QUEUE_ID, self.admin_entries, dstrd)
        self.rings[ADMIN_QUEUE_ID] = admin
        self.write(Register.AQA, Aqa.of(asqs=admin.entries - 1, acqs=admin.entries - 1))
        self.write(Register.ASQ, admin.sq_memory.iova, 8)
        self.write(Register.ACQ, admin.cq_memory.iova, 8)
        self.write(Register.CC, Cc(self.read(Register.CC)).replace(en=1))
        self.wait_ready(1)

    def disable(self) -> None:
        self.write(Register.CC, Cc(self.read(Register.CC)).replace(en=0))
        self.wait_ready(0)

    def nssr(self) -> None:
        self.write(Register.NSSR, NSSR_MAGIC)

    def _release_rings(self) -> None:
        for ring in self.rings.values():
            ring.release()
        self.rings.clear()

    def next_cid(self) -> int:
        return next(self._cids) % 0x10000

    def run_admin(self, opcode: int, *, dw10: int = 0, dw11: int = 0, prp1: int = 0) -> AdminCompletion:
        completion = self.admin.run(admin_sqe(opcode, self.next_cid(), dw10=dw10, dw11=dw11, prp1=prp1))
        return AdminCompletion.of(completion)

    def create_cq(self, ring: Ring, vector: int | None = None) -> AdminCompletion:
        flags = CreateCqDw11.of(pc=1, ien=vector is not None, ivec=vector or 0)
        queue = QueueDw10.of(id=ring.queue_id, size=ring.entries - 1)
        return self.run_admin(AdminOpcode.CREATE_CQ, dw10=queue, dw11=flags, prp1=ring.cq_memory.iova)

    def create_sq_sqe(self, ring: Ring) -> bytes:
        flags = CreateSqDw11.of(pc=1, qprio=1, cqid=ring.queue_id)
        queue = QueueDw10.of(id=ring.queue_id, size=ring.entries - 1)
        return admin_sqe(AdminOpcode.CREATE_SQ, self.next_cid(), dw10=queue, dw11=flags, prp1=ring.sq_memory.iova)

    def create_sq(self, ring: Ring) -> AdminCompletion:
        return AdminCompletion.of(self.admin.run(self.create_sq_sqe(ring)))

    def create_pair(self, queue_id: int, *, entries: int | None = None, vector: int | None = None) -> Ring:
        ring = Ring(self.function, self.arena, queue_id, entries or self.entries)
        assert self.create_cq(ring, vector).status == AdminStatus.SUCCESS
        assert self.create_sq(ring).status == AdminStatus.SUCCESS
        self.rings[queue_id] = ring
        return ring

    def delete_pair(self, queue_id: int) -> None:
        assert self.run_admin(AdminOpcode.DELETE_SQ, dw10=queue_id).status == AdminStatus.SUCCESS
        assert self.run_admin(AdminOpcode.DELETE_CQ, dw10=queue_id).status == AdminStatus.SUCCESS
        self.rings.pop(queue_id).release()

    def run_hsm(
        self, message: bytes, *, queue_id: int = 1, control: int = 0, session_id: int = 0, opcode: int = 0
    ) -> HsmAnswer:
        """One HSM command; `message` empty sends the lengths and pages of a flush (all 0)."""
        self.page.view[: len(message)] = np.frombuffer(message, np.uint8)
        sqe = hsm_sqe(
            self.next_cid(),
            source=self.page.iova if message else 0,
            source_bytes=len(message),
            destination=self.answer_page.iova if message else 0,
            destination_bytes=self.answer_page.size_bytes if message else 0,
            control=control,
            session_id=session_id,
            opcode=opcode,
        )
        completion = self.rings[queue_id].run(sqe)
        return HsmAnswer(
            Psf(completion["psf"]).sc,
            self.answer_page.view[: int(completion["byte_count"])].tobytes(),
            SessionControl(completion["control"]),
            int(completion["session_id"]),
            int(completion["short_app_id"]),
        )

    def close(self) -> None:
        self.arena.close()
