# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Plays the driver's side of a recording against a device.

Accesses, entries, requests and descriptor lists are the recorded ones, at the recorded addresses. Completions are the
device's own: where the recorded device kept silent this one answers, so the head doorbells are written as the device's
completions are consumed, not as recorded. What a recording does not have, such as secrets and user data, is zeros.
"""

from __future__ import annotations

import os
import select
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ihsm.bus.config_space import capabilities
from ihsm.bus.function import PciFunction, drain_event
from ihsm.closing import Closing
from ihsm.errors import ReplayError, ReplayTimeoutError
from ihsm.trace.commands import admin_command, answer, command_id, ends_queues, form_of
from ihsm.trace.files import Numbered
from ihsm.trace.guest_memory import GuestMemory, MapDma, named_memory
from ihsm.trace.jsonl import Fetched, Place
from ihsm.trace.records import (
    Completion,
    Connect,
    Doorbell,
    Entry,
    Lost,
    Mark,
    RegisterAccess,
    RegisterRead,
    RegisterWrite,
    Request,
    Reset,
    Start,
)
from ihsm_abi import doorbells
from ihsm_abi.admin import AdminOpcode, CreateCqDw11, Psf
from ihsm_abi.hsm_queue import HSM_SQE, MAX_DST_BYTES
from ihsm_abi.pci import ADMIN_VECTOR, Bar, Capability
from ihsm_abi.registers import Aqa, Cc, Csts, Register
from ihsm_abi.resources import (
    ADMIN_QUEUE_ID,
    AES_QUEUES_PER_RESOURCE,
    FIRST_AES_QUEUE_ID,
    LAST_AES_QUEUE_ID,
    LAST_HSM_QUEUE_ID,
)
from ihsm_abi.trace import DoorbellKind, TraceReset

TIMEOUT_S: Final = 30.0
POLL_INTERVAL_S: Final = 0.0005
_DEVICE_CONTROL: Final = 8
_INITIATE_FLR: Final = 1 << 15


Life = tuple[int, int]
"""Which submission ring of an id it is: how often all queues had gone before, how many of this id there were since."""


@dataclass(frozen=True, slots=True)
class Played:
    """A command that the device has answered."""

    queue: int
    cid: int
    sqe: bytes
    cqe: Any
    """The completion, as the structure of its queue."""
    sqhd: int
    """Head of the submission queue that the completion before it told."""
    tail: int
    entries: int
    last: bool
    """No other command of the queue is outstanding."""

    @property
    def status(self) -> int:
        """Bits 15:1 of the completion's last word."""
        return Psf(int(self.cqe["psf"])).status


class Audience:
    """Who looks on while a recording is played; may raise an exception to end it."""

    def read(self, access: RegisterRead, value: int) -> None:
        """A register has been read: what was recorded, and what the device has given."""

    def answered(self, command: Played) -> None:
        """A command has been answered."""

    def differs(self, command: Played, recorded: int) -> None:
        """The status of a command is not the recorded one."""

    def forgotten(self) -> None:
        """All queues are gone, by a disable or a reset."""

    def began(self, step: str) -> None:
        """A mark of the recording."""


@dataclass
class Queue:
    """A queue pair as the recorded driver sees it."""

    queue_id: int
    entries: int
    cq_base: int
    vector: int | None
    sq_base: int = 0
    tail: int = 0
    head: int = 0
    phase: int = 1
    sqhd: int = 0
    life: Life = (0, 0)
    """Of its submission ring."""
    outstanding: dict[int, bytes] = field(default_factory=dict)
    answered: dict[int, Played] = field(default_factory=dict)
    """The last answer of each command id."""


def resources_for(records: Sequence[Numbered]) -> int:
    """Resources that a function needs to have all queues of a recording."""
    found = 1
    for _, record in records:
        command = admin_command(record.data) if isinstance(record, Entry) and record.queue == ADMIN_QUEUE_ID else None
        if command is not None and command.opcode == AdminOpcode.CREATE_CQ:
            number = command.queue.id
            if FIRST_AES_QUEUE_ID <= number <= LAST_AES_QUEUE_ID:
                number = (number - FIRST_AES_QUEUE_ID) // AES_QUEUES_PER_RESOURCE + 1
            found = max(found, number if number <= LAST_HSM_QUEUE_ID else 1)
    return found


def function_level_reset(function: PciFunction) -> None:
    """Ask for a function level reset through the PCI Express capability; a function without one is reset as a whole."""
    for entry in capabilities(function):
        if entry.id == Capability.PCI_EXPRESS and not entry.extended:
            at = entry.offset + _DEVICE_CONTROL
            word = int.from_bytes(function.read_config(at, 2), "little")
            function.write_config(at, (word | _INITIATE_FLR).to_bytes(2, "little"))
            return
    function.reset()


class Replay(Closing):
    """One recording against one device that has not been enabled."""

    def __init__(
        self,
        function: PciFunction,
        map_dma: MapDma,
        records: Sequence[Numbered],
        *,
        audience: Audience | None = None,
        level_reset: Callable[[], None] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """Prepare memory and interrupts.

        Args:
            function: the device.
            map_dma: how memory is made reachable for it.
            records: of one function, from before its controller was enabled.
            audience: who looks on.
            level_reset: how to ask for a function level reset; default: through config space.
            timeout_s: longest wait for one answer, in seconds.

        Raises:
            ReplayError: the recording cannot be played.
        """
        self._records = records
        _check(records)
        self._function = function
        self._audience = audience or Audience()
        self._level_reset = level_reset or (lambda: function_level_reset(function))
        self._timeout_s = timeout_s
        self._memory = GuestMemory(named_memory(record for _, record in records))
        self._memory.map(map_dma)
        self._interrupts = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(function.vectors)]
        function.enable_interrupts(self._interrupts)
        self._queues: dict[int, Queue] = {}
        self._registers: dict[int, int] = {}
        self._lives = _Lives()
        self._recorded = _entries_by_life(records)
        self._connected = False
        self.answered: list[tuple[int, int, int]] = []
        """(queue id, command id, status) of every completion, in order."""

    def close(self) -> None:
        """Take interrupts back; the function is the caller's."""
        if self._interrupts:
            self._function.disable_interrupts()
            for event in self._interrupts:
                os.close(event)
            self._interrupts = []
        self._memory.close()

    def run(self) -> list[tuple[int, int, int]]:
        """Play all of it; (queue id, command id, status) of every completion, in order.

        Raises:
            ReplayTimeoutError: the device does not answer, or does not become ready.
            ReplayError: it answers what was not asked.
            BusError: it is gone.
        """
        for index, (_, record) in enumerate(self._records):
            match record:
                case Mark():
                    self._drain_all()
                    self._audience.began(record.text)
                case Reset() | Connect():
                    self._reset(record)
                case RegisterRead(region=Bar.REGISTERS):
                    self._read(record)
                case RegisterWrite(region=Bar.REGISTERS):
                    self._write(record)
                case Doorbell(which=DoorbellKind.SQ_TAIL):
                    self._ring(index, record)
                case RegisterAccess(region=Bar.DOORBELLS):
                    self._other_access(record)
                case Completion():
                    self._await_completion(record)
        self._drain_all()
        return self.answered

    def _reset(self, record: Reset | Connect) -> None:
        if isinstance(record, Connect):
            if self._connected:
                self._function.reset()
            self._connected = True
        elif record.reset == TraceReset.DEVICE:
            self._function.reset()
        elif record.reset in (TraceReset.FUNCTION_LEVEL, TraceReset.FAULT):
            self._level_reset()
        self._forget()

    def _forget(self) -> None:
        self._queues.clear()
        self._lives.end()
        self._audience.forgotten()

    def _read(self, access: RegisterRead) -> None:
        value = self._function.read_bar(access.region, access.offset, access.width)
        if access.offset == Register.CSTS and access.width == Register.CSTS.width:
            value = self._settle(access, value)
        self._audience.read(access, value)

    def _settle(self, access: RegisterRead, value: int) -> int:
        """A device that is slower than the recorded one is polled more often."""
        wanted = Csts(access.value).rdy
        is_target = wanted == Cc(self._registers.get(Register.CC, 0)).en
        end = time.monotonic() + self._timeout_s
        while is_target and Csts(value).rdy != wanted:
            if time.monotonic() > end:
                raise ReplayTimeoutError(f"CSTS.RDY did not become {wanted} within {self._timeout_s:g} s")
            time.sleep(POLL_INTERVAL_S)
            value = self._function.read_bar(access.region, access.offset, access.width)
        return value

    def _write(self, access: RegisterWrite) -> None:
        offset, value = access.offset, access.value
        is_enabled = Cc(self._registers.get(Register.CC, 0)).en and ADMIN_QUEUE_ID in self._queues
        self._registers[offset] = value
        self._function.write_bar(Bar.REGISTERS, offset, access.width, value)
        if ends_queues(access):
            self._forget()
        elif offset == Register.CC and not is_enabled:
            self._enabled()

    def _enabled(self) -> None:
        """The admin queue is there."""
        for event in self._interrupts:
            drain_event(event)
        aqa = Aqa(self._registers.get(Register.AQA, 0))
        asq, acq = self._registers.get(Register.ASQ, 0), self._registers.get(Register.ACQ, 0)
        admin = Queue(ADMIN_QUEUE_ID, aqa.acqs + 1, acq, ADMIN_VECTOR, asq, life=self._lives.of(ADMIN_QUEUE_ID))
        self._clear(admin)
        self._queues[ADMIN_QUEUE_ID] = admin

    def _clear(self, queue: Queue) -> None:
        """Zeros in its completion ring."""
        self._memory.store(queue.cq_base, bytes(queue.entries * int(form_of(queue.queue_id).cqe.itemsize)))

    def _other_access(self, access: RegisterAccess) -> None:
        """Of the doorbells' BAR, what is no doorbell."""
        if isinstance(access, RegisterWrite):
            self._function.write_bar(access.region, access.offset, access.width, access.value)
        else:
            self._function.read_bar(access.region, access.offset, access.width)

    def _ring(self, index: int, doorbell: Doorbell) -> None:
        """A tail doorbell: new entries are put where the driver had put them; heads are told by `_consume`."""
        queue = self._queues.get(doorbell.queue) if doorbell.queue is not None else None
        if queue is None or not queue.sq_base:  # the driver has not noticed a reset
            self._function.write_bar(Bar.DOORBELLS, doorbell.offset, doorbells.STRIDE_BYTES, doorbell.value)
            return
        if queue.queue_id == ADMIN_QUEUE_ID:
            self._drain_all()
        recorded = self._recorded[queue.queue_id, queue.life]
        while queue.tail != doorbell.value and recorded:
            self._put(queue, recorded.pop(0))
        if queue.tail == doorbell.value:  # else the recorded device had not fetched what is behind it
            self._function.write_bar(Bar.DOORBELLS, doorbell.offset, doorbells.STRIDE_BYTES, doorbell.value)

    def _put(self, queue: Queue, index: int) -> None:
        """A recorded entry, with all that it points to."""
        entry = self._records[index].record
        assert isinstance(entry, Entry)
        cid = command_id(entry.queue, entry.data)
        if cid is None:
            raise ReplayError(f"record {self._records[index].number}: an entry of {len(entry.data)} bytes")
        self._memory.store(queue.sq_base + queue.tail * len(entry.data), entry.data)
        queue.tail = (queue.tail + 1) % queue.entries
        queue.outstanding[cid] = entry.data
        self._store_operands(index, entry, cid)
        if queue.queue_id == ADMIN_QUEUE_ID:
            self._follow_admin(entry.data)

    def _store_operands(self, index: int, entry: Entry, cid: int) -> None:
        """Request, descriptor lists and tail that the recorded device fetched for the entry at `index`."""
        for _, record in self._records[index + 1 :]:
            match record:
                case Fetched() if (record.queue, record.cid) == (entry.queue, cid):
                    self._memory.store(record.address, record.data)
                    if record.place is Place.REQUEST:
                        rest = min(record.length, MAX_DST_BYTES) - len(record.data)
                        self._memory.store(record.address + len(record.data), bytes(max(rest, 0)))
                case Request() if (record.queue, record.cid) == (entry.queue, cid):
                    page = int(np.frombuffer(entry.data, HSM_SQE)["src_prp1"][0])
                    self._memory.store(page, record.message.ljust(min(record.length, MAX_DST_BYTES), b"\0"))
                case Mark():
                    return
                case Completion(queue=queue) if queue == entry.queue:
                    return

    def _follow_admin(self, data: bytes) -> None:
        """Rings that a command creates or deletes."""
        command = admin_command(data)
        assert command is not None
        number = command.queue
        queue = self._queues.get(number.id)
        match command.opcode:
            case AdminOpcode.CREATE_CQ:
                dw11 = CreateCqDw11(command.dw11)
                vector = dw11.ivec if dw11.ien and dw11.ivec < len(self._interrupts) else None
                created = Queue(number.id, number.size + 1, command.prp1, vector)
                self._clear(created)
                self._queues[number.id] = created
            case AdminOpcode.CREATE_SQ:
                self._lives.begin(number.id)
                if queue is not None:
                    queue.sq_base, queue.tail, queue.sqhd = command.prp1, 0, 0
                    queue.life = self._lives.of(number.id)
            case AdminOpcode.DELETE_SQ if queue is not None:
                queue.sq_base = 0
            case AdminOpcode.DELETE_CQ if queue is not None and queue.queue_id != ADMIN_QUEUE_ID:
                del self._queues[number.id]

    def _await_completion(self, record: Completion) -> None:
        """Consume completions until the one that the recorded device posted here has come."""
        queue, recorded = self._queues.get(record.queue), answer(record.queue, record.data)
        if queue is None or recorded is None:
            return
        while recorded.cid in queue.outstanding:
            self._consume(queue)
        played = queue.answered.pop(recorded.cid, None)
        if played is not None and played.status != recorded.psf.status:
            self._audience.differs(played, recorded.psf.status)

    def _drain_all(self) -> None:
        for queue in self._queues.values():
            while queue.outstanding:
                self._consume(queue)

    def _consume(self, queue: Queue) -> None:
        """Wait for the interrupt of a completion, which must be there when it comes, and take it."""
        layout = form_of(queue.queue_id).cqe
        entry = self._memory.entry(queue.cq_base + queue.head * layout.itemsize, layout)
        end = time.monotonic() + self._timeout_s
        while Psf(int(entry["psf"])).phase != queue.phase:
            self._wait(queue, end)
        self._taken(queue, entry.copy())
        queue.head = (queue.head + 1) % queue.entries
        queue.phase ^= queue.head == 0
        offset = doorbells.cq_head_offset(queue.queue_id)
        self._function.write_bar(Bar.DOORBELLS, offset, doorbells.STRIDE_BYTES, queue.head)

    def _wait(self, queue: Queue, end: float) -> None:
        """Until an interrupt comes, or for a moment where there is none."""
        left_s = end - time.monotonic()
        if left_s <= 0:
            cids = ", ".join(map(str, sorted(queue.outstanding)))
            raise ReplayTimeoutError(f"queue {queue.queue_id}: no answer within {self._timeout_s:g} s, commands {cids}")
        if queue.vector is None:
            time.sleep(POLL_INTERVAL_S)
            return
        event = self._interrupts[queue.vector]
        ready, _, _ = select.select([event], [], [], left_s)
        if ready:
            drain_event(event)

    def _taken(self, queue: Queue, cqe: Any) -> None:
        form = form_of(queue.queue_id)
        cid, sqhd = int(cqe[form.cid]), int(cqe["sqhd"])
        if cid not in queue.outstanding:
            raise ReplayError(f"queue {queue.queue_id}: an answer to command {cid}, which is not outstanding")
        sqe = queue.outstanding.pop(cid)
        command = Played(queue.queue_id, cid, sqe, cqe, queue.sqhd, queue.tail, queue.entries, not queue.outstanding)
        queue.sqhd = sqhd
        queue.answered[cid] = command
        self.answered.append((queue.queue_id, cid, command.status))
        self._audience.answered(command)


def _check(records: Sequence[Numbered]) -> None:
    """See that a recording can be played; ReplayError."""
    for number, record in records:
        if isinstance(record, Lost):
            raise ReplayError(f"record {number}: {record.count} records are missing before it")
        if isinstance(record, Start) and record.ready:
            raise ReplayError(f"record {number}: the recording begins with a controller that was enabled before")


class _Lives:
    """Counts the lives of submission rings."""

    def __init__(self) -> None:
        self._ends = 0
        self._begun: dict[int, int] = {}

    def of(self, queue: int) -> Life:
        """The life of a queue's ring now."""
        return self._ends, self._begun.get(queue, 0)

    def begin(self, queue: int) -> None:
        """A ring is created."""
        self._begun[queue] = self._begun.get(queue, 0) + 1

    def end(self) -> None:
        """All queues are gone."""
        self._ends += 1
        self._begun.clear()


def _entries_by_life(records: Sequence[Numbered]) -> dict[tuple[int, Life], list[int]]:
    """Indices of the entries of each queue, apart for each submission ring that it had."""
    found: dict[tuple[int, Life], list[int]] = defaultdict(list)
    lives = _Lives()
    for index, (_, record) in enumerate(records):
        match record:
            case Entry():
                found[record.queue, lives.of(record.queue)].append(index)
                command = admin_command(record.data) if record.queue == ADMIN_QUEUE_ID else None
                if command is not None and command.opcode == AdminOpcode.CREATE_SQ:
                    lives.begin(command.queue.id)
            case Reset() | Connect():
                lives.end()
            case RegisterWrite() if ends_queues(record):
                lives.end()
    return found
