# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A client that changes everything while commands are in flight, against the engine alone; also run under sanitizers.

Client and device share this process and so one table of descriptors: a write to a descriptor that was closed would hit
one of the canaries that reuse its number. Run as a script: `python storm.py ROUNDS [page]`.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ihsm_abi.admin import Psf
from ihsm_abi.hsm_queue import HsmStatus
from ihsm_abi.pci import MSIX_VECTORS, PAGE_BYTES
from ihsm_device.commands import Outcome, RingClass
from ihsm_device.hsm.keystore import BulkType, KeyStore, Owner
from support.rig import AES_ATTR, EngineRig, RigQueue, aes_entry, hsm_entry
from support.waiting import ended

ANSWERS_IOVA: Final = 0x9000_0000
AES_BYTES: Final = 16 * 1024
KEY_ID: Final = 0x12
PATTERN: Final = 0xA5
FROZEN_KEPT: Final = 6
CANARIES: Final = 40
ENTRIES: Final = 16
QUEUES: Final = {1: 1, 2: 2, 256: 16, 257: 17}
"""Vector of each queue id."""
SLOTS: Final = len(QUEUES) * ENTRIES
"""Places for answers: every command in flight has one of its own."""
ANSWERS_BYTES: Final = SLOTS * AES_BYTES


class Storm:
    """Four queues, two HSM workers, two AES workers, and memory for the answers that comes and goes."""

    silent_vectors = range(MSIX_VECTORS)
    """Vectors that are not raised without a queue."""

    def __init__(self, store: KeyStore, seed: int, *, doorbell_page: bool = False) -> None:
        self.random = random.Random(seed)
        self.rig = EngineRig(
            inline_aes=False, aes_workers=2, doorbell_page=doorbell_page, spin_us=20, memory=np.zeros(1 << 20, np.uint8)
        )
        self.store = store
        self.table = store.bulk_table(0)
        self.key = store.import_secret(bytes(range(32)), Owner())
        self.table.publish(KEY_ID, self.key, BulkType.GCM_UNAPPROVED, session_id=3, app_id=0, session_only=False)
        self.rig.engine.set_keys(self.table)
        self.source = self.rig.allocate(AES_BYTES)
        self.lists = self.rig.allocate((1 + SLOTS) * PAGE_BYTES)
        self.answers = np.zeros(ANSWERS_BYTES, np.uint8)
        self.rig.host.map(ANSWERS_IOVA, self.answers)
        self.frozen: list[NDArray[np.uint8]] = []
        self.events: list[int] = []
        self.canaries: list[int] = []
        self.change_interrupts()
        self.queues = {queue_id: self.rig.queue(queue_id, ENTRIES) for queue_id in QUEUES}
        self.outstanding: dict[int, dict[int, int]] = {}
        """Slot of each command in flight by queue and cid."""
        self.statuses: Counter[int] = Counter()
        self.create()
        self.next_cid = 0
        self.write_lists()
        self.workers = [threading.Thread(target=self.work, daemon=True) for _ in range(2)]
        for worker in self.workers:
            worker.start()

    def write_lists(self) -> None:
        """One segment for the source, one for each slot as destination, each with one descriptor."""
        addresses = [self.source, *(ANSWERS_IOVA + slot * AES_BYTES for slot in range(SLOTS))]
        for index, address in enumerate(addresses):
            text = address.to_bytes(8, "little") + AES_BYTES.to_bytes(8, "little")
            self.rig.at(self.lists + index * PAGE_BYTES, len(text))[:] = np.frombuffer(text, np.uint8)

    def work(self) -> None:
        answer = b"\x11" * 3584
        while (command := self.rig.scheduler.pull(RingClass.HSM)) is not None:
            engine = command.engine
            if engine.complete_hsm(command, answer) is Outcome.DATA_FAILED:
                engine.complete_hsm(command, b"", sc=HsmStatus.DMA_ERROR)

    def create(self) -> None:
        for queue_id, queue in self.queues.items():
            self.rig.at(queue.cq_iova, ENTRIES * queue.cqe_type.itemsize)[:] = 0
            queue.tail = queue.head = 0
            queue.phase = 1
            queue.create(QUEUES[queue_id])
            self.outstanding[queue_id] = {}

    def entry(self, queue: RigQueue, cid: int, slot: int) -> bytes:
        if queue.queue_id < 256:
            return hsm_entry(
                cid, src_len=64, src_prp1=self.source, dst_len=3584, dst_prp1=ANSWERS_IOVA + slot * AES_BYTES
            )
        entry = bytearray(aes_entry(cid, attr=int(AES_ATTR), session_id=3, frame_type=1, key_id=KEY_ID))
        for position, descriptor in ((24, self.lists), (44, self.lists + (1 + slot) * PAGE_BYTES)):
            entry[position : position + 4] = AES_BYTES.to_bytes(4, "little")
            entry[position + 4 : position + 20] = (
                descriptor.to_bytes(8, "little") + (16).to_bytes(4, "little") + b"\0\0\0\x30"
            )
        return bytes(entry)

    def submit(self) -> None:
        for index, queue in enumerate(self.queues.values()):
            outstanding = self.outstanding[queue.queue_id]
            slots = set(range(index * ENTRIES, (index + 1) * ENTRIES)) - set(outstanding.values())
            for _ in range(self.random.randrange(1, ENTRIES - 1 - len(outstanding))):
                self.next_cid = (self.next_cid + 1) % 0x10000
                outstanding[self.next_cid] = slot = slots.pop()
                queue.put(self.entry(queue, self.next_cid, slot))
            queue.ring()

    def drain(self) -> None:
        """Every command is completed exactly once."""
        for queue in self.queues.values():
            outstanding = self.outstanding[queue.queue_id]
            while outstanding:
                completion = queue.wait()
                del outstanding[int(completion[queue.cid_field])]
                self.statuses[Psf(int(completion["psf"])).status] += 1
            assert queue.peek() is None

    def change_interrupts(self) -> None:
        old, self.events = self.events, [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(MSIX_VECTORS)]
        for vector, event in enumerate(self.events):
            self.rig.host.set_eventfd(vector, event)
        for event in old + self.canaries:
            os.close(event)
        self.canaries = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(CANARIES)]

    def change_memory(self) -> None:
        self.rig.host.unmap(ANSWERS_IOVA, ANSWERS_BYTES)
        self.answers[:] = PATTERN
        self.frozen = [*self.frozen[-FROZEN_KEPT:], self.answers]
        if self.random.random() < 0.5:
            time.sleep(self.random.random() * 1e-3)
        self.answers = np.zeros(ANSWERS_BYTES, np.uint8)
        self.rig.host.map(ANSWERS_IOVA, self.answers)

    def end_all(self, how: Callable[[], None]) -> None:
        how()
        memory, answers = self.rig.memory.copy(), self.answers.copy()
        raised = [self.rig.host.interrupts(vector) for vector in self.silent_vectors]
        time.sleep(self.random.random() * 1e-3)
        assert (self.rig.memory == memory).all(), "the device wrote to a ring after disable"
        assert (self.answers == answers).all(), "the device wrote an answer after disable"
        assert raised == [self.rig.host.interrupts(vector) for vector in self.silent_vectors]
        self.create()

    def restart_queue(self) -> None:
        queue = self.queues[self.random.choice(list(QUEUES))]
        self.rig.engine.delete_sq(queue.queue_id, timeout_s=self.random.choice([0, 1]))
        while (completion := queue.reap()) is not None:
            del self.outstanding[queue.queue_id][int(completion[queue.cid_field])]
        self.outstanding[queue.queue_id].clear()
        self.rig.engine.create_sq(queue.queue_id, queue.sq_iova, ENTRIES, queue.queue_id)
        queue.tail = 0

    def toggle_mask(self) -> None:
        self.rig.engine.set_function_mask(True)
        time.sleep(self.random.random() * 1e-4)
        self.rig.engine.set_function_mask(False)

    def check(self) -> None:
        for memory in self.frozen:
            assert (memory == PATTERN).all(), "the device wrote to memory that it no longer had"
        for canary in self.canaries:
            try:
                count = os.eventfd_read(canary)
            except BlockingIOError:
                continue
            raise AssertionError(f"a descriptor that was closed got {count} writes under its new owner")

    def run(self, rounds: int) -> None:
        engine = self.rig.engine
        actions: list[Callable[[], None]] = [
            self.change_interrupts,
            self.change_memory,
            self.restart_queue,
            self.toggle_mask,
            lambda: self.end_all(engine.disable),
            lambda: self.end_all(engine.reset),
        ]
        for _ in range(rounds):
            self.submit()
            if self.random.random() < 0.5:
                time.sleep(self.random.random() * 2e-4)
            self.random.choice(actions)()
            self.drain()
            self.check()

    def close(self) -> None:
        self.rig.scheduler.wake()
        ended(*self.workers)
        self.rig.close()
        self.table.close()
        self.store.destroy(self.key)
        for fd in self.events + self.canaries:
            os.close(fd)


def main(rounds: int, doorbell_page: bool) -> None:
    """A storm of `rounds` rounds; prints what was done."""
    store = KeyStore()
    storm = Storm(store, seed=rounds, doorbell_page=doorbell_page)
    storm.run(rounds)
    counters = storm.rig.engine.counters()
    storm.close()
    store.close()
    print({name: value for name, value in counters.items() if value}, "statuses", dict(storm.statuses))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:] == ["page"])
