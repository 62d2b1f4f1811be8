# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The socket client against libvfio-user itself."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ihsm.bus import VfioUserFunction
from ihsm.bus.arena import MAX_ARENA_BYTES
from ihsm.errors import ArenaError, BusError, ConnectionLostError, RequestRefusedError
from support.descriptors import open_descriptors
from support.devices import DeviceUnderTest, open_device
from support.waiting import ended


@dataclass
class Served:
    device: DeviceUnderTest
    function: VfioUserFunction
    events: list[int] = field(default_factory=list)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with open_device("vfio-user", tmp_path) as device:
        assert isinstance(device.function, VfioUserFunction)
        events = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(32)]
        yield Served(device, device.function, events)
        for event in events:
            os.close(event)


def signalled(events: list[int]) -> list[int]:
    poller = select.poll()
    for event in events:
        poller.register(event, select.POLLIN)
    ready = {fd for fd, _ in poller.poll(0)}
    return [number for number, event in enumerate(events) if event in ready]


def test_config_space_and_bars(served: Served) -> None:
    function = served.function
    assert function.read_config(0, 4) == bytes.fromhex("141403c0")
    assert len(function.read_config(0, function.config_bytes)) == 4096
    assert [function.bar_bytes(bar) for bar in range(6)] == [4096, 0, 4096, 0, 4096, 0]
    assert function.read_bar(0, 8, 4) == 0x00010400
    for width in (1, 2, 4, 8):
        assert function.read_bar(0, 0x18, width) & 0xFF == 3
    with pytest.raises(BusError, match="exceeds"):
        function.read_bar(0, 4096, 4)
    with pytest.raises(BusError, match="width 3"):
        function.read_bar(0, 0, 3)
    with pytest.raises(BusError, match="exceeds"):
        function.write_bar(1, 0, 4, 0)


def test_msix_table_is_written_through_bar_4(served: Served) -> None:
    function = served.function
    function.write_bar(4, 16 * 5 + 8, 4, 0x1234)
    assert function.read_bar(4, 16 * 5 + 8, 4) == 0x1234


def test_arenas_up_to_the_limit_come_and_go(served: Served) -> None:
    function = served.function
    for size in (1, 4096, 4 << 20, MAX_ARENA_BYTES):
        arena = function.allocate_arena(size)
        assert arena.size_bytes == max(size, 4096)
        arena.array[-1] = 1
        arena.close()
    with pytest.raises(ArenaError):
        function.allocate_arena(MAX_ARENA_BYTES + 1)
    with pytest.raises(ArenaError):
        function.allocate_arena(0)


def test_a_refused_request_leaves_the_connection_usable(served: Served) -> None:
    function = served.function
    fd = os.memfd_create("test")
    os.ftruncate(fd, 8192)
    function.map_dma(fd, 0, 0x10000, 8192)
    with pytest.raises(RequestRefusedError):
        function.map_dma(fd, 0, 0x11000, 8192)  # overlaps
    os.close(fd)
    function.unmap_dma(0x10000, 8192)
    assert function.read_bar(0, 8, 4)


def test_interrupts_can_be_set_taken_back_and_set_again(served: Served) -> None:
    function = served.function
    for _ in range(3):
        function.enable_interrupts(served.events)
        function.disable_interrupts()
    sparse: list[int | None] = [None, *served.events[1:5], None, None, *served.events[7:]]
    function.enable_interrupts(sparse)
    assert signalled(served.events) == []
    with pytest.raises(BusError):
        function.enable_interrupts([None] * 33)


def test_posted_writes_are_seen_before_the_next_read(served: Served) -> None:
    function = served.function
    for value in range(200):
        function.write_bar(0, 0x24, 4, value, posted=True)
        assert function.read_bar(0, 0x24, 4) == value


def test_many_threads_share_a_connection(served: Served) -> None:
    function = served.function
    wrong = []

    def read() -> None:
        for _ in range(200):
            if function.read_bar(0, 8, 4) != 0x00010400:
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    ended(*threads)
    assert not wrong


def test_a_closed_function_refuses_everything(served: Served) -> None:
    function = served.function
    arena = function.allocate_arena(4096)
    function.close()
    function.close()
    with pytest.raises(ConnectionLostError):
        function.read_bar(0, 0, 4)
    with pytest.raises(ArenaError):
        arena.allocate(1)


def test_reset_brings_registers_back(served: Served) -> None:
    function = served.function
    function.write_bar(0, 0x24, 4, 0x000F000F)
    function.reset()
    assert function.read_bar(0, 0x24, 4) == 0


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    def cycle() -> int:
        with open_device("vfio-user", tmp_path) as device:
            device.function.allocate_arena(1 << 20)
            device.function.map_bar(2)
            device.function.write_event(2)
        return open_descriptors()

    first = cycle()
    assert [cycle() for _ in range(5)] == [first] * 5
