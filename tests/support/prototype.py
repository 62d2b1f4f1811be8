# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The bare device that answered the Linux driver while tests/data/linux-driver-*.jsonl were recorded, played from them.

What it answers is the recording's, down to the command that it never answers; command ids, queue heads and phases are
those of the driver that runs now. Whatever that driver does instead of what was recorded shows in what *it* did
(`support.driver_side`), not here.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ihsm_abi import doorbells
from ihsm_abi.admin import (
    ADMIN_CQE,
    ADMIN_SQE,
    IDENTIFY,
    IDENTIFY_SIZES,
    AdminOpcode,
    CreateCqDw11,
    Psf,
    QueueDw10,
)
from ihsm_abi.aes_queue import AES_CQE, AES_SQE
from ihsm_abi.hsm_queue import HSM_CQE, HSM_SQE
from ihsm_abi.pci import ADMIN_VECTOR, Bar
from ihsm_abi.registers import NSSR_MAGIC, Aqa, Cc, Csts, Register
from ihsm_abi.resources import ADMIN_QUEUE_ID, FIRST_AES_QUEUE_ID
from support.fake_function import FakeFunction

Event = dict[str, Any]
_COMMAND_ID: Final = {ADMIN_SQE: "cid", HSM_SQE: "cid", AES_SQE: "cmd_id"}


def is_aes(queue_id: int) -> bool:
    return queue_id >= FIRST_AES_QUEUE_ID


@dataclass
class Queue:
    """A queue pair of the prototype."""

    queue_id: int
    cq_base: int
    entries: int
    vector: int
    sq_base: int = 0
    sq_live: bool = False
    head: int = 0
    cq_tail: int = 0
    phase: int = 1
    cids: dict[int, int] = field(default_factory=dict)
    """Command id now, by the one that was recorded."""

    @property
    def formats(self) -> tuple[np.dtype[np.void], np.dtype[np.void]]:
        if self.queue_id == ADMIN_QUEUE_ID:
            return ADMIN_SQE, ADMIN_CQE
        return (AES_SQE, AES_CQE) if is_aes(self.queue_id) else (HSM_SQE, HSM_CQE)


class Prototype:
    """The recorded device behind a fake function; `play` says which step of the recording comes next."""

    def __init__(self, function: FakeFunction, cap: int, vs: int) -> None:
        self.function = function
        self._lock = threading.RLock()
        self._queues: dict[int, Queue] = {}
        self._recorded: list[Event] = []
        self._next = 0
        function.put_register(Register.CAP, cap, width=8)
        function.put_register(Register.VS, vs)
        function.on_write = self._written
        function.on_reset = self.reset

    def play(self, events: list[Event]) -> None:
        """Answer the next commands as in this part of the recording."""
        with self._lock:
            self._recorded = [event for event in events if event["op"] in ("sqe", "cqe")]
            self._next = 0

    @property
    def unanswered(self) -> int:
        """Recorded commands of the step that the driver has not sent."""
        return sum(event["op"] == "sqe" for event in self._recorded[self._next :])

    def fail(self) -> None:
        """CSTS.CFS."""
        with self._lock:
            self._set_status(Csts(self.function.get_register(Register.CSTS)).replace(cfs=1))

    def reset(self) -> None:
        """Registers at their reset values, no queues."""
        with self._lock:
            self._queues.clear()
            for register in (Register.CC, Register.CSTS, Register.AQA):
                self.function.put_register(register, 0)

    def _set_status(self, status: int) -> None:
        self.function.put_register(Register.CSTS, status)

    def _written(self, bar: int, offset: int, width: int, value: int) -> None:
        with self._lock:
            if bar == Bar.DOORBELLS:
                self._rung(offset, value)
            elif offset == Register.CC:
                self._configured(Cc(value))
            elif offset == Register.NSSR and value == NSSR_MAGIC:
                self._queues.clear()
                self._set_status(0)

    def _configured(self, cc: Cc) -> None:
        ready = Csts(self.function.get_register(Register.CSTS)).rdy
        if cc.en == ready:
            return
        self._queues.clear()
        self._set_status(Csts.of(rdy=cc.en))
        if cc.en:
            entries = Aqa(self.function.get_register(Register.AQA)).asqs + 1
            asq, acq = (self.function.get_register(register, width=8) for register in (Register.ASQ, Register.ACQ))
            self._queues[ADMIN_QUEUE_ID] = Queue(ADMIN_QUEUE_ID, acq, entries, ADMIN_VECTOR, asq, True)

    def _rung(self, offset: int, tail: int) -> None:
        doorbell = doorbells.decode(offset)
        assert doorbell is not None
        queue = self._queues.get(doorbell.queue_id)
        if doorbell.is_cq_head or queue is None or not queue.sq_live:
            return
        layout = queue.formats[0]
        while queue.sq_live and queue.head != tail:
            entry = self.function.read_memory(queue.sq_base + queue.head * layout.itemsize, layout.itemsize)
            assert entry is not None
            queue.head = (queue.head + 1) % queue.entries
            self._fetched(queue, np.frombuffer(entry, layout)[0])

    def _fetched(self, queue: Queue, sqe: Any) -> None:
        recorded = self._recorded[self._next] if self._next < len(self._recorded) else None
        assert recorded is not None, f"a command of queue {queue.queue_id} that was not recorded: {sqe.tobytes().hex()}"
        name = _COMMAND_ID[queue.formats[0]]
        then = np.frombuffer(bytes.fromhex(recorded["bytes"]), queue.formats[0])[0]
        assert is_aes(recorded["sqid"]) == is_aes(queue.queue_id)
        queue.cids[int(then[name])] = int(sqe[name])
        if queue.queue_id == ADMIN_QUEUE_ID:
            self._carry_out(sqe)
        self._next += 1
        vectors = set()
        while self._next < len(self._recorded) and self._recorded[self._next]["op"] == "cqe":
            answer = self._recorded[self._next]
            # Which AES queue a command goes to is the driver's choice, so the answer goes where the command came from.
            target = queue if is_aes(answer["cqid"]) else self._queues[answer["cqid"]]
            self._answer(target, bytes.fromhex(answer["bytes"]))
            vectors.add(target.vector)
            self._next += 1
        for vector in sorted(vectors):
            self.function.raise_interrupt(vector)

    def _carry_out(self, sqe: Any) -> None:
        """What an admin command changes; those of the recording succeed."""
        ring, queue = int(sqe["prp1"]), QueueDw10(int(sqe["dw10"]))
        match sqe["opc"]:
            case AdminOpcode.IDENTIFY:
                page = np.zeros(1, IDENTIFY)
                for name, value in IDENTIFY_SIZES.items():
                    page[name] = value
                assert self.function.write_memory(ring, page.tobytes())
            case AdminOpcode.CREATE_CQ:
                vector = CreateCqDw11(int(sqe["dw11"])).ivec
                self._queues[queue.id] = Queue(queue.id, ring, queue.size + 1, vector)
            case AdminOpcode.CREATE_SQ:
                created = self._queues[queue.id]
                created.sq_base, created.sq_live, created.head = ring, True, 0
            case AdminOpcode.DELETE_SQ:
                self._queues[queue.id].sq_live = False
            case AdminOpcode.DELETE_CQ:
                del self._queues[queue.id]

    def _answer(self, queue: Queue, recorded: bytes) -> None:
        layout = queue.formats[1]
        cqe = np.frombuffer(bytearray(recorded), layout)
        name = "cmd_id" if is_aes(queue.queue_id) else "cid"
        cqe[name] = queue.cids.pop(int(cqe[name][0]))
        cqe["sqhd"] = queue.head
        cqe["psf"] = Psf(int(cqe["psf"][0])).replace(phase=queue.phase)
        address = queue.cq_base + queue.cq_tail * layout.itemsize
        assert self.function.write_memory(address, cqe.tobytes())
        queue.cq_tail += 1
        if queue.cq_tail == queue.entries:
            queue.cq_tail, queue.phase = 0, queue.phase ^ 1
