# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Doorbells into a page: the store, and the kick of a poller that sleeps."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ihsm.bus.function import drain_event
from ihsm.driver.doorbells import Doorbells
from ihsm_abi.doorbells import POLLER_ASLEEP_OFFSET
from ihsm_abi.pci import BAR_BYTES, Bar

FULL = 2**64 - 2
"""Largest counter of an eventfd."""


class Function:
    """BAR2 of a function, mapped or not, watched by a poller or not."""

    def __init__(self, *, mapped: bool, event: int | None) -> None:
        self.memory = mmap.mmap(-1, BAR_BYTES)
        self.page = np.frombuffer(self.memory, np.uint32)
        self.mapped, self.event = mapped, event
        self.messages: list[tuple[int, int, int, int, bool]] = []

    def map_bar(self, bar: int) -> mmap.mmap | None:
        assert bar == Bar.DOORBELLS
        return self.memory if self.mapped else None

    def write_event(self, bar: int) -> int | None:
        assert bar == Bar.DOORBELLS
        return self.event

    def write_bar(self, bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        self.messages.append((bar, offset, width, value, posted))

    def fall_asleep(self, asleep: bool) -> None:
        self.page[POLLER_ASLEEP_OFFSET // 4] = asleep


@pytest.fixture
def event() -> Iterator[int]:
    event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    yield event
    os.close(event)


def doorbells(*, mapped: bool = True, event: int | None = None) -> tuple[Doorbells, Function]:
    function: Any = Function(mapped=mapped, event=event)
    return Doorbells(function), function


def test_a_store_into_the_page() -> None:
    bells, function = doorbells()
    bells.ring(0x48, 7)
    assert function.page[0x48 // 4] == 7
    assert function.messages == []


def test_a_posted_write_without_a_page() -> None:
    bells, function = doorbells(mapped=False)
    bells.ring(0x48, 7)
    assert function.messages == [(Bar.DOORBELLS, 0x48, 4, 7, True)]
    assert not function.page.any()


def test_a_poller_is_kicked_if_it_sleeps(event: int) -> None:
    bells, function = doorbells(event=event)
    bells.ring(0x48, 1)
    assert drain_event(event) == 0
    function.fall_asleep(True)
    bells.ring(0x48, 2)
    bells.ring(0x48, 3)
    assert drain_event(event) == 2
    function.fall_asleep(False)
    bells.ring(0x48, 4)
    assert drain_event(event) == 0
    assert function.page[0x48 // 4] == 4


def test_a_poller_that_reads_no_kicks_does_not_stop_the_caller(event: int) -> None:
    bells, function = doorbells(event=event)
    function.fall_asleep(True)
    os.eventfd_write(event, FULL)
    bells.ring(0x48, 9)
    assert function.page[0x48 // 4] == 9
    assert drain_event(event) == FULL


def test_the_page_is_let_go(event: int) -> None:
    bells, function = doorbells(event=event)
    bells.close()
    del function.page
    function.memory.close()  # BufferError if anything still pointed into it
    bells.ring(0x48, 1)
    assert len(function.messages) == 1
