# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A queue engine without controller: tests create queues, write entries and ring doorbells themselves."""

from __future__ import annotations

import mmap
import os
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ihsm.trace.commands import form_of
from ihsm_abi.admin import ADMIN_SQE
from ihsm_abi.aes_queue import CMD_TYPE_FAST_PATH, GCM_SQE, AesAttr
from ihsm_abi.doorbells import POLLER_ASLEEP_OFFSET, cq_head_offset, sq_tail_offset
from ihsm_abi.hsm_queue import HSM_SQE
from ihsm_abi.pci import BAR_BYTES, PAGE_BYTES
from ihsm_abi.resources import ADMIN_QUEUE_ID
from ihsm_device._native import lib
from ihsm_device.commands import Command, RingClass
from ihsm_device.engine import Engine
from ihsm_device.hosts import LoopbackHost
from ihsm_device.scheduler import Scheduler
from support.waiting import HANG_S, first

MEMORY_BYTES = 1 << 20
MEMORY_IOVA = 0x10_0000
AES_ATTR = AesAttr.of(psdt=1, cmd_type=CMD_TYPE_FAST_PATH)


class RigQueue:
    """A queue pair of the engine: entries are written raw, completions read by phase."""

    def __init__(self, rig: EngineRig, queue_id: int, entries: int, cq_entries: int | None = None) -> None:
        self.rig, self.queue_id, self.entries = rig, queue_id, entries
        self.cq_entries = cq_entries or entries
        form = form_of(queue_id)
        self.sqe_type, self.cqe_type, self.cid_field = form.sqe, form.cqe, form.cid
        self.sq_iova = rig.allocate(entries * self.sqe_type.itemsize)
        self.cq_iova = rig.allocate(self.cq_entries * self.cqe_type.itemsize)
        self.tail = self.head = 0
        self.phase = 1

    def create(self, vector: int | None = None) -> RigQueue:
        engine = self.rig.engine
        if self.queue_id == ADMIN_QUEUE_ID:
            engine.enable_admin(self.sq_iova, self.cq_iova, self.entries, self.cq_entries)
        else:
            engine.create_cq(self.queue_id, self.cq_iova, self.cq_entries, vector)
            engine.create_sq(self.queue_id, self.sq_iova, self.entries, self.queue_id)
        return self

    def put(self, sqe: bytes) -> None:
        """Write an entry at the tail, without ringing."""
        size = self.sqe_type.itemsize
        self.rig.at(self.sq_iova + self.tail * size, size)[:] = np.frombuffer(sqe, np.uint8)
        self.tail = (self.tail + 1) % self.entries

    def ring(self) -> None:
        self.rig.doorbell(sq_tail_offset(self.queue_id), self.tail)

    def submit(self, *sqes: bytes) -> None:
        for sqe in sqes:
            self.put(sqe)
        self.ring()

    def peek(self) -> Any:
        """The next completion, None if its phase says that it is not there."""
        size = self.cqe_type.itemsize
        raw = self.rig.at(self.cq_iova + self.head * size, size)
        if int(raw[-2]) & 1 != self.phase:  # first the phase, then the rest: the device writes them in the other order
            return None
        # by way of bytes: numpy copies a record without the gaps between its fields
        return np.frombuffer(raw.tobytes(), self.cqe_type)[0]

    def reap(self, *, ring: bool = True) -> Any:
        """Take the next completion, or None."""
        entry = self.peek()
        if entry is not None:
            self.head = (self.head + 1) % self.cq_entries
            self.phase ^= self.head == 0
            if ring:
                self.ring_head()
        return entry

    def ring_head(self) -> None:
        self.rig.doorbell(cq_head_offset(self.queue_id), self.head)

    def wait(self, *, ring: bool = True) -> Any:
        return first(lambda: self.reap(ring=ring), f"completion of queue {self.queue_id}", every_s=0)


class EngineRig:
    """Scheduler (or another rig's), loopback host with 1 MiB of guest memory, and one engine."""

    def __init__(
        self,
        *,
        aes_workers: int = 1,
        inline_aes: bool = True,
        doorbell_page: bool = False,
        spin_us: float = 0,
        memory: NDArray[np.uint8] | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.owns_scheduler = scheduler is None
        self.scheduler = Scheduler(aes_workers=aes_workers, spin_us=spin_us) if scheduler is None else scheduler
        self.host = LoopbackHost()
        self.memory = np.zeros(MEMORY_BYTES, np.uint8) if memory is None else memory
        self.host.map(MEMORY_IOVA, self.memory)
        self.engine = Engine(self.scheduler, self.host, inline_aes=inline_aes, doorbell_page=doorbell_page)
        fd = self.engine.page_fd
        self.page = None if fd is None else np.frombuffer(mmap.mmap(fd, BAR_BYTES), np.uint32)
        self._next = MEMORY_IOVA

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        if self.owns_scheduler:
            self.scheduler.wake()
        self.engine.close()
        if self.owns_scheduler:
            self.scheduler.close()

    def allocate(self, size: int) -> int:
        """I/O address of fresh pages."""
        iova = self._next
        self._next += -(-size // PAGE_BYTES) * PAGE_BYTES
        assert self._next <= MEMORY_IOVA + len(self.memory)
        return iova

    def at(self, iova: int, size: int) -> NDArray[np.uint8]:
        """Guest memory as the client sees it."""
        return self.memory[iova - MEMORY_IOVA : iova - MEMORY_IOVA + size]

    def doorbell(self, offset: int, value: int) -> None:
        if self.page is None:
            self.engine.doorbell(offset, value)
            return
        self.page[offset // 4] = value
        if self.page[POLLER_ASLEEP_OFFSET // 4]:
            os.eventfd_write(self.engine.kick_fd, 1)

    def queue(self, queue_id: int, entries: int = 16, *, cq_entries: int | None = None) -> RigQueue:
        return RigQueue(self, queue_id, entries, cq_entries)

    def pull(self, ring: RingClass = RingClass.HSM) -> Command:
        command = self.scheduler.pull(ring, HANG_S)
        assert command is not None, f"no {ring.name} command within {HANG_S:g} s"
        return command

    def serve_ready_ring(self) -> bool:
        """As an AES worker: serve the first ready AES ring for one turn. False: there is none."""
        return bool(lib.ihsm_scheduler_serve_one(self.scheduler.handle))

    def nothing_to_pull(self, ring: RingClass = RingClass.HSM) -> bool:
        return self.scheduler.pull(ring, 0) is None


def admin_entry(cid: int, **fields: int) -> bytes:
    return _entry(ADMIN_SQE, cid=cid, **fields)


def hsm_entry(cid: int, **fields: int) -> bytes:
    """An HSM entry; without further fields a flush, which needs no memory."""
    return _entry(HSM_SQE, cid=cid, **(fields or {"command": 1, "control": 6}))


def aes_entry(cid: int, **fields: int) -> bytes:
    """An AES-GCM entry, which a function without keys refuses with status 2, error 2."""
    return _entry(GCM_SQE, cmd_id=cid, **({"attr": int(AES_ATTR)} | fields))


def _entry(dtype: np.dtype[np.void], **fields: int) -> bytes:
    entry = np.zeros((), dtype)
    for name, value in fields.items():
        entry[name] = value
    return entry.tobytes()
