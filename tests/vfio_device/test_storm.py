# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Interrupt descriptors, memory and the controller change while commands are in flight, a thousand times.

Server and client share this process and so one table of descriptors: whoever wrote to a descriptor after it was closed
would hit one of the canaries that reuse its number.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from ihsm.bus.arena import DmaBuffer
from ihsm.bus.function import drain_event
from ihsm_abi.pci import MSIX_VECTORS, PAGE_BYTES
from support.descriptors import open_descriptors
from support.devices import HOSTS, DeviceUnderTest, open_device
from support.modules import LONG_ANSWER_PREFIX, SLOW_PREFIX
from support.polled import PolledDriver, hsm_sqe
from support.waiting import HANG_S, until

ROUNDS: Final = 1000
COMMANDS: Final = 6
ANSWER_BYTES: Final = 4096
PATTERN: Final = 0x5A
CANARIES: Final = 48
REQUEST_BYTES: Final = 8
HELD_SHARE: Final = 0.1
"""Share of the controller's changes that a command is surely in the middle of."""


class Storm:
    """A driver with two HSM queues whose answers go to memory that may be taken away."""

    def __init__(self, device: DeviceUnderTest, seed: int) -> None:
        self.device, self.random = device, random.Random(seed)
        self.new_driver()
        self.events = self.new_events()
        self.canaries: list[int] = []
        self.frozen: list[NDArray[np.uint8]] = []
        """Memory that the device must not touch, each with a copy of what it holds."""
        self.copies: list[NDArray[np.uint8]] = []
        self.answers = self.new_answers()
        self.held = 0
        """Commands that were at work when their controller went."""
        self.device.function.enable_interrupts(self.events)
        self.bring_up()

    def new_driver(self) -> None:
        self.driver = PolledDriver(self.device.function)
        self.long, self.slow = self.driver.page, self.driver.arena.allocate_pages(PAGE_BYTES)
        for request, text in ((self.long, LONG_ANSWER_PREFIX), (self.slow, SLOW_PREFIX)):
            request.view[:REQUEST_BYTES] = np.frombuffer(text.ljust(REQUEST_BYTES), np.uint8)

    def bring_up(self) -> None:
        self.driver.enable()
        for queue_id in (1, 2):
            self.driver.create_pair(queue_id, vector=queue_id)

    def new_events(self) -> list[int]:
        return [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(MSIX_VECTORS)]

    def new_answers(self) -> DmaBuffer:
        return self.device.function.allocate_arena(2 * COMMANDS * ANSWER_BYTES).allocate_pages(
            2 * COMMANDS * ANSWER_BYTES
        )

    def put(self, ring: int, request: DmaBuffer, slot: int) -> None:
        """A request, answered in `slot`."""
        sqe = hsm_sqe(
            self.driver.next_cid(),
            source=request.iova,
            source_bytes=REQUEST_BYTES,
            destination=self.answers.iova + slot * ANSWER_BYTES,
            destination_bytes=ANSWER_BYTES,
        )
        self.driver.rings[ring].put(sqe)

    def submit(self) -> None:
        for slot in range(2 * COMMANDS):
            self.put(1 + slot % 2, self.long, slot)
        for queue_id in (1, 2):
            self.driver.rings[queue_id].ring()

    def drain(self) -> None:
        for queue_id in (1, 2):
            ring = self.driver.rings[queue_id]
            while ring.outstanding:
                ring.wait()

    def freeze(self, *memories: NDArray[np.uint8]) -> None:
        self.frozen = list(memories)
        self.copies = [memory.copy() for memory in memories]

    def check_frozen(self) -> None:
        for memory, copy in zip(self.frozen, self.copies, strict=True):
            assert (memory == copy).all(), "the device wrote to memory that it no longer had"

    def change_interrupts(self) -> None:
        old, self.events = self.events, self.new_events()
        self.device.function.enable_interrupts(self.events)
        for event in old:
            os.close(event)
        self.canaries = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(CANARIES)]
        self.drain()

    def change_memory(self) -> None:
        view, old = self.answers.view, self.answers
        old._arena.close()  # type: ignore[union-attr]
        view[:] = PATTERN
        self.freeze(view)
        self.drain()
        self.answers = self.new_answers()

    def hold(self) -> None:
        """A command that is at work from now on until the gate opens, however quick the device and slow the machine."""
        self.device.module.gate = threading.Event()
        self.put(1, self.slow, 0)
        self.driver.rings[1].ring()
        assert self.device.module.started.acquire(timeout=HANG_S)
        self.held += 1

    def change_controller(self, how: Callable[[], None]) -> None:
        if self.random.random() < HELD_SHARE:
            self.hold()
        how()
        self.freeze(*(ring.cq_memory.view for ring in self.driver.rings.values()), self.answers.view)
        self.driver.rings.clear()  # the old rings are watched until the next round, so new memory is needed
        self.device.module.gate.set()  # whoever is held ends now
        if self.random.random() < 0.5:
            time.sleep(self.random.random() * 1e-3)
        self.check_frozen()
        if self.driver.arena.free_bytes < (1 << 19):
            self.freeze()
            self.driver.close()
            self.new_driver()
        self.device.function.enable_interrupts(self.events)
        if self.driver.csts.rdy == 0:
            self.driver.disable()
        self.bring_up()

    def round(self) -> None:
        self.submit()
        time.sleep(self.random.choice((0, 0, 1e-5, 1e-4, 3e-4)))
        action = self.random.choice(("interrupts", "memory", "disable", "nssr", "device", "function level"))
        match action:
            case "interrupts":
                self.change_interrupts()
            case "memory":
                self.change_memory()
            case "disable":
                self.change_controller(self.driver.disable)
            case "nssr":
                self.change_controller(self.driver.nssr)
            case "device":
                self.change_controller(self.device.function.reset)
            case "function level":
                self.change_controller(self.device.level_reset)
        self.check_frozen()
        self.freeze()
        for canary in self.canaries:
            assert drain_event(canary) == 0, "a stray interrupt hit a reused descriptor"
            os.close(canary)
        self.canaries = []

    def close(self) -> None:
        self.device.function.disable_interrupts()
        for event in (*self.events, *self.canaries):
            os.close(event)


def run_storm(device: DeviceUnderTest) -> None:
    storm = Storm(device, seed=1)
    try:
        for _ in range(ROUNDS):
            storm.round()
    finally:
        storm.close()
    assert storm.held > 0
    until(
        lambda: device.device.status()["counters"]["completions_dropped"] >= storm.held,
        "the end of all commands that were at work when their controller went",
    )


@pytest.mark.parametrize("host", HOSTS)
def test_storm(host: str, socket_folder: Path) -> None:
    before = open_descriptors()
    with open_device(host, socket_folder, resources=2) as device:
        run_storm(device)
    del device
    assert open_descriptors() <= before
