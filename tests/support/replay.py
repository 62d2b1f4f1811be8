# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Plays the driver's side of a recorded trace against a device and checks every answer by the specification.

Accesses, entries, requests and descriptor lists are the recorded ones, at the recorded addresses. Completions are the
device's own: where the recorded device kept silent ours answers, so the head doorbells are written as
the device's completions are consumed, not as recorded.
"""

from __future__ import annotations

import json
import mmap
import os
import select
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from ihsm.bus.function import PciFunction, drain_event
from ihsm_abi import doorbells
from ihsm_abi.admin import (
    ADMIN_CQE,
    ADMIN_SQE,
    AdminOpcode,
    CreateCqDw11,
    Psf,
    QueueDw10,
)
from ihsm_abi.aes_queue import AES_CQE, GCM_SQE, XTS_SQE, AesAttr, Cipher
from ihsm_abi.hsm_queue import HSM_CQE, HSM_SQE, HsmCommandWord
from ihsm_abi.pci import ADMIN_VECTOR, MSIX_VECTORS, Bar
from ihsm_abi.registers import Aqa, Cc, Csts, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from support.admin_model import AdminModel
from support.waiting import HANG_S

GUEST_BYTES: Final = 1 << 30
"""Every recorded address lies below; the guest's memory is one sparse file."""
RESET_DEVICE, CONNECTION_CLOSED, RESET_FUNCTION_LEVEL = 0, 1, 2
CONSTANT_REGISTERS: Final = {Register.CAP, Register.VS}

Event = dict[str, Any]


def load(path: Path) -> list[Event]:
    """The events of a trace."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@dataclass
class Queue:
    """A queue pair as the recorded driver sees it."""

    queue_id: int
    entries: int
    cq_base: int
    vector: int
    sq_base: int = 0
    tail: int = 0
    head: int = 0
    phase: int = 1
    sqhd: int = 0
    outstanding: dict[int, bytes] = field(default_factory=dict)

    @property
    def types(self) -> tuple[np.dtype[Any], np.dtype[Any]]:
        if self.queue_id == ADMIN_QUEUE_ID:
            return ADMIN_SQE, ADMIN_CQE
        return (HSM_SQE, HSM_CQE) if self.queue_id < FIRST_AES_QUEUE_ID else (GCM_SQE, AES_CQE)


class Replay:
    """One trace against one device that has not been enabled."""

    def __init__(
        self,
        function: PciFunction,
        map_dma: Callable[[int, int, int, int], None],
        level_reset: Callable[[], None],
        events: list[Event],
        resources: int,
    ) -> None:
        self.function, self.level_reset, self.events, self.resources = function, level_reset, events, resources
        descriptor = os.memfd_create("guest")
        os.truncate(descriptor, GUEST_BYTES)
        self.memory = mmap.mmap(descriptor, GUEST_BYTES)
        self.guest = np.frombuffer(self.memory, np.uint8)
        map_dma(descriptor, 0, 0, GUEST_BYTES)
        os.close(descriptor)
        self.interrupts = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(MSIX_VECTORS)]
        function.enable_interrupts(self.interrupts)
        self.model = AdminModel(resources, ctrl_id=1, mapped=range(GUEST_BYTES))
        self.queues: dict[int, Queue] = {}
        self.recorded: dict[int, list[int]] = defaultdict(list)
        for index, event in enumerate(events):
            if event["op"] == "sqe":
                self.recorded[event["sqid"]].append(index)
        self.step = "start"
        self.answered: list[tuple[int, int, int]] = []
        self.registers: dict[int, int] = {}

    def close(self) -> None:
        self.function.disable_interrupts()
        for event in self.interrupts:
            os.close(event)

    def run(self) -> list[tuple[int, int, int]]:
        """(queue id, cid, status) of every completion, in order."""
        for index, event in enumerate(self.events):
            match event["op"]:
                case "step":
                    self.drain_all()
                    self.step = event["name"]
                case "reset":
                    self.reset(event["type"])
                case "read":
                    self.read(event)
                case "write" if event["bar"] == Bar.REGISTERS:
                    self.write_register(event)
                case "write":
                    self.ring(index, event)
                case "cqe":
                    self.await_completion(event)
        self.drain_all()
        assert not any(queue.outstanding for queue in self.queues.values())
        return self.answered

    def reset(self, kind: int) -> None:
        if kind == RESET_DEVICE:
            self.function.reset()
        elif kind == RESET_FUNCTION_LEVEL:
            self.level_reset()
        self.forget_queues()

    def forget_queues(self) -> None:
        self.queues.clear()
        self.model.forget()

    def read(self, event: Event) -> None:
        value = self.function.read_bar(event["bar"], event["off"], event["size"])
        if event["off"] in CONSTANT_REGISTERS:
            return
        expected = event["value"]
        if event["off"] == Register.CSTS:
            expected = Csts(expected).replace(cfs=0)  # the recorded device was told to fail, ours is well
        assert value == expected, f"{self.step}: {event['off']:#x} reads {value:#x}, not {expected:#x}"

    def write_register(self, event: Event) -> None:
        offset, value = event["off"], event["value"]
        was_enabled = Cc(self.registers.get(Register.CC, 0)).en and ADMIN_QUEUE_ID in self.queues
        self.registers[offset] = value
        self.function.write_bar(Bar.REGISTERS, offset, event["size"], value)
        if offset == Register.NSSR or (offset == Register.CC and not Cc(value).en):
            self.forget_queues()
        elif offset == Register.CC and not was_enabled:
            self.clear_interrupts()
            aqa = Aqa(self.registers[Register.AQA])
            asq, acq = self.registers[Register.ASQ], self.registers[Register.ACQ]
            entries = aqa.asqs + 1
            self.guest[acq : acq + entries * ADMIN_CQE.itemsize] = 0
            self.queues[ADMIN_QUEUE_ID] = Queue(ADMIN_QUEUE_ID, entries, acq, ADMIN_VECTOR, asq)

    def clear_interrupts(self) -> None:
        for event in self.interrupts:
            drain_event(event)

    def ring(self, index: int, event: Event) -> None:
        """A doorbell: new entries are put where the driver had put them, head doorbells are written by `consume`."""
        doorbell = doorbells.decode(event["off"])
        assert doorbell is not None
        if doorbell.is_cq_head:
            return
        queue = self.queues.get(doorbell.queue_id)
        if queue is None or not queue.sq_base:  # the driver has not noticed a reset
            self.function.write_bar(Bar.DOORBELLS, event["off"], 4, event["value"])
            return
        if queue.queue_id == ADMIN_QUEUE_ID:
            self.drain_all()
        while queue.tail != event["value"]:
            self.put(queue, index)
        self.function.write_bar(Bar.DOORBELLS, event["off"], 4, event["value"])

    def put(self, queue: Queue, doorbell_index: int) -> None:
        """The next recorded entry of a queue, with all that it points to."""
        index = self.recorded[queue.queue_id].pop(0)
        assert index > doorbell_index
        sqe = bytes.fromhex(self.events[index]["bytes"])
        sqe_type, _ = queue.types
        entry = np.frombuffer(sqe, sqe_type, 1)[0]
        cid = int(entry["cmd_id" if sqe_type == GCM_SQE else "cid"])
        self.store(queue.sq_base + queue.tail * len(sqe), sqe)
        queue.tail = (queue.tail + 1) % queue.entries
        queue.outstanding[cid] = sqe
        self.store_operands(index, queue.queue_id, cid)
        if queue.queue_id == ADMIN_QUEUE_ID:
            self.follow_admin(entry)

    def store_operands(self, index: int, queue_id: int, cid: int) -> None:
        """Request, descriptor lists and tail that the recorded device fetched for the entry at `index`."""
        for event in self.events[index + 1 :]:
            if (event.get("sqid"), event.get("cid")) == (queue_id, cid) and event["op"] in ("prp", "sgl", "tail"):
                data = bytes.fromhex(event["bytes"])
                self.store(event["addr"], data.ljust(event.get("len", len(data)), b"\0"))
            elif event["op"] == "step" or (event["op"] == "cqe" and event["cqid"] == queue_id):
                return

    def follow_admin(self, entry: np.void) -> None:
        """Rings that a command creates or deletes."""
        number = QueueDw10(entry["dw10"])
        match entry["opc"]:
            case AdminOpcode.CREATE_CQ:
                vector = CreateCqDw11(entry["dw11"]).ivec
                queue = Queue(number.id, number.size + 1, int(entry["prp1"]), vector)
                self.guest[queue.cq_base : queue.cq_base + queue.entries * queue.types[1].itemsize] = 0
                self.queues[number.id] = queue
            case AdminOpcode.CREATE_SQ:
                queue = self.queues[number.id]
                queue.sq_base, queue.tail, queue.sqhd = int(entry["prp1"]), 0, 0
            case AdminOpcode.DELETE_SQ:
                self.queues[number.id].sq_base = 0
            case AdminOpcode.DELETE_CQ:
                del self.queues[number.id]

    def store(self, address: int, data: bytes) -> None:
        self.guest[address : address + len(data)] = np.frombuffer(data, np.uint8)

    def await_completion(self, event: Event) -> None:
        """Consume completions until the one that the recorded device posted here has come."""
        queue = self.queues.get(event["cqid"])
        cid_at = 2 if event["cqid"] >= FIRST_AES_QUEUE_ID else 12
        cid = int.from_bytes(bytes.fromhex(event["bytes"])[cid_at : cid_at + 2], "little")
        assert queue is not None
        while cid in queue.outstanding:
            self.consume(queue)

    def drain_all(self) -> None:
        for queue in self.queues.values():
            while queue.outstanding:
                self.consume(queue)

    def consume(self, queue: Queue) -> None:
        """Wait for the interrupt of a completion, which must be there when it comes, and check it."""
        _, cqe_type = queue.types
        at = queue.cq_base + queue.head * cqe_type.itemsize
        entry = self.guest[at : at + cqe_type.itemsize].view(cqe_type)[0]
        if Psf(entry["psf"]).phase != queue.phase:
            event = self.interrupts[queue.vector]
            ready, _, _ = select.select([event], [], [], HANG_S)
            assert ready, f"{self.step}: queue {queue.queue_id} gave no interrupt for {sorted(queue.outstanding)}"
            drain_event(event)
            if Psf(entry["psf"]).phase != queue.phase:
                return  # an interrupt of completions already consumed
        self.check(queue, entry.copy())
        queue.head = (queue.head + 1) % queue.entries
        queue.phase ^= queue.head == 0
        self.function.write_bar(Bar.DOORBELLS, doorbells.cq_head_offset(queue.queue_id), 4, queue.head)

    def check(self, queue: Queue, cqe: np.void) -> None:
        is_aes = queue.queue_id >= FIRST_AES_QUEUE_ID
        cid, sqhd = int(cqe["cmd_id" if is_aes else "cid"]), int(cqe["sqhd"])
        context = f"{self.step}: queue {queue.queue_id}, cid {cid}"
        assert cid in queue.outstanding, context
        sqe = queue.outstanding.pop(cid)
        assert int(cqe["sqid"]) == queue.queue_id, context
        assert (sqhd - queue.sqhd) % queue.entries <= (queue.tail - queue.sqhd) % queue.entries, context
        if not queue.outstanding:
            assert sqhd == queue.tail, context
        queue.sqhd = sqhd
        psf = Psf(cqe["psf"])
        if queue.queue_id == ADMIN_QUEUE_ID:
            entry = np.frombuffer(sqe, ADMIN_SQE, 1)[0]
            wanted = self.model.answer(*(int(entry[name]) for name in ("opc", "dw10", "dw11", "prp1")))
            assert (psf.status, int(cqe["dw0"])) == wanted, context
        elif is_aes:
            assert (psf.status, int(cqe["err"])) == aes_error(sqe), context
            assert int(cqe["len"]) == 0, context
        else:
            assert psf.sc == hsm_status(sqe), context
        self.answered.append((queue.queue_id, cid, psf.status))


def hsm_status(sqe: bytes) -> int:
    """`sc` that the checks of spec 02 B.7 give."""
    entry = np.frombuffer(sqe, HSM_SQE, 1)[0]
    word = HsmCommandWord(entry["command"])
    if word.psdt:
        return 0xC0
    if word.opc > 1:
        return 0x01
    if word.opc == 1:
        return 0 if entry["control"] & 0x7 == 0x6 else 0x07
    if not 1 <= entry["src_len"] <= 4096:
        return 0xC1
    if not 1 <= entry["dst_len"] <= 8192:
        return 0xC2
    if (entry["src_prp1"] | entry["src_prp2"]) & 0xFFF:
        return 0xC3
    if (entry["dst_prp1"] | entry["dst_prp2"]) & 0xFFF:
        return 0xC4
    return 0x07 if entry["src_len"] > 3584 else 0


def aes_error(sqe: bytes) -> tuple[int, int]:
    """Status and error of an AES command as long as no key exists (spec 01 §14.9, 02 E.3)."""
    gcm, xts = np.frombuffer(sqe, GCM_SQE, 1)[0], np.frombuffer(sqe, XTS_SQE, 1)[0]
    if AesAttr(gcm["attr"]).cipher == Cipher.GCM:
        if gcm["aligned_aad_len"] % 32:
            return 2, 5
        return 2, 1 if gcm["key_id"] > 0xFFFF else 2
    if xts["key_id1"] > 0xFFFF or xts["key_id2"] > 0xFFFF:
        return 1, 1 if xts["key_id1"] > 0xFFFF else 2
    return 1, 5 if xts["key_id1"] == xts["key_id2"] else 3
