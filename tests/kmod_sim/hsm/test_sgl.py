# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Scatter-gather lists: their segments, and the lending of a program's pages (spec 02 C.4, D)."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.aes_queue import SGL_DESCRIPTOR, SglType
from ihsm_kmod.hsm import sgl
from ihsm_kmod.hsm.sgl import DATA_BLOCKS_PER_SEGMENT, UserSgl, segment_pages, write_segments
from ihsm_kmod.kernel.dma import DMA_FROM_DEVICE, DMA_TO_DEVICE, DmaDirection
from ihsm_kmod.kernel.errors import Errno
from support.hsm_driver import Driver
from support.user_pages import GONE, PAGE, READ_ONLY, USABLE, UserPages

T = TypeVar("T")
LIST = 0x3_0000_0000
DATA = 0x2_0000_0000


def written(count: int) -> tuple[Any, np.ndarray[Any, Any], list[tuple[int, int]]]:
    """The descriptor for the queue entry, all pages as descriptors, and the blocks that were to be described."""
    blocks = [(DATA + 2 * PAGE * number, PAGE) for number in range(count)]
    pages = np.zeros(segment_pages(count) * PAGE, np.uint8)
    first = write_segments(pages, LIST, blocks)
    return first, pages.view(SGL_DESCRIPTOR), blocks


def test_three_segments_are_chained_as_in_the_specification() -> None:
    """The example of 02 C.4, 600 blocks."""
    first, list_, _ = written(600)
    assert first.tobytes().hex(" ") == "00 00 00 00 03 00 00 00 00 10 00 00 00 00 00 20"
    assert list_[255].tobytes().hex(" ") == "00 10 00 00 03 00 00 00 00 10 00 00 00 00 00 20"
    assert list_[256 + 255].tobytes().hex(" ") == "00 20 00 00 03 00 00 00 a0 05 00 00 00 00 00 30"
    assert list_[512 + 89].tobytes() != bytes(16)
    assert list_[512 + 90 :].tobytes().strip(b"\0") == b""


@pytest.mark.parametrize(("count", "pages"), [(1, 1), (254, 1), (255, 2), (256, 2), (510, 3), (511, 3)])
def test_a_spare_page_where_the_segments_are_full(count: int, pages: int) -> None:
    assert segment_pages(count) == pages


@pytest.mark.parametrize("count", [255, 510])
def test_a_last_segment_that_is_full_has_no_link(count: int) -> None:
    _, list_, _ = written(count)
    assert list_[count // 255 * 256 - 1 :].tobytes().strip(b"\0") == b""


@given(count=st.integers(1, 1100))
def test_a_device_that_follows_the_list_finds_all_blocks(count: int) -> None:
    descriptor, list_, blocks = written(count)
    found, left = [], count
    while left:
        is_last = left <= DATA_BLOCKS_PER_SEGMENT
        assert descriptor["type"] >> 4 == (SglType.LAST_SEGMENT if is_last else SglType.SEGMENT)
        assert descriptor["len"] == (16 * left if is_last else PAGE)
        start = (int(descriptor["addr"]) - LIST) // SGL_DESCRIPTOR.itemsize
        here = list_[start : start + min(left, DATA_BLOCKS_PER_SEGMENT)]
        assert not here["type"].any(), "data blocks"
        found += [(int(block["addr"]), int(block["len"])) for block in here]
        left -= len(here)
        descriptor = list_[start + DATA_BLOCKS_PER_SEGMENT] if left else None
    assert found == blocks


@pytest.fixture
def lend(shared_driver: Driver) -> Iterator[Callable[[int, int, DmaDirection], UserSgl]]:
    """Lend memory of this process to the device, taken back at the end of the test."""
    machine, lent = shared_driver.machine, []
    process = machine.process()

    def run(function: Callable[..., T], *arguments: object) -> T:
        return machine.kernel.run(function, *arguments, process=process)

    def lend(address: int, length: int, direction: DmaDirection) -> UserSgl:
        lent.append(run(UserSgl, shared_driver.controller.pdev, address, length, direction))
        return lent[-1]

    shared_driver.reports.clear()
    yield lend
    for one in lent:
        run(one.close)
    assert shared_driver.reports == []


def blocks_of(driver: Driver, one: UserSgl) -> list[tuple[int, int]]:
    """The data blocks of a list of one segment, as the device finds them."""
    assert one.descriptor["type"] >> 4 == SglType.LAST_SEGMENT
    count = int(one.descriptor["len"]) // 16
    layout = np.dtype((SGL_DESCRIPTOR, count))
    descriptors = driver.function.memory(int(one.descriptor["addr"]), layout)
    return [(int(block["addr"]), int(block["len"])) for block in descriptors]


def test_blocks_keep_their_place_in_the_page(shared_driver: Driver, lend: Callable[..., UserSgl]) -> None:
    pages = UserPages(USABLE, USABLE, USABLE)
    address = pages.put(PAGE - 0x10, bytes(range(16)) + bytes(PAGE) + b"end")
    blocks = blocks_of(shared_driver, lend(address, 16 + PAGE + 3, DMA_TO_DEVICE))
    assert [length for _, length in blocks] == [16, PAGE, 3]
    assert [start % PAGE for start, _ in blocks] == [PAGE - 0x10, 0, 0]
    starts = sorted(start // PAGE for start, _ in blocks)
    assert all(second - first > 1 for first, second in itertools.pairwise(starts)), "no neighbours"
    assert shared_driver.function.memory(blocks[0][0], np.dtype("V16")).tobytes() == bytes(range(16))
    assert shared_driver.function.memory(blocks[2][0], np.dtype("V3")).tobytes() == b"end"


@pytest.mark.parametrize(
    ("protections", "direction"),
    [
        ((GONE, USABLE), DMA_TO_DEVICE),
        ((USABLE, GONE), DMA_TO_DEVICE),
        ((READ_ONLY, USABLE), DMA_FROM_DEVICE),
        ((USABLE, READ_ONLY), DMA_FROM_DEVICE),
    ],
)
def test_not_all_of_the_buffer_is_there(
    lend: Callable[..., UserSgl], protections: tuple[int, int], direction: DmaDirection
) -> None:
    pages = UserPages(*protections)
    with pytest.raises(Errno) as caught:
        lend(pages.address + 16, PAGE, direction)
    assert caught.value.errno == errno.EFAULT


def test_a_source_may_be_read_only(lend: Callable[..., UserSgl]) -> None:
    pages = UserPages(READ_ONLY)
    assert lend(pages.address, PAGE, DMA_TO_DEVICE).length == PAGE


def test_memory_that_cannot_be_mapped(lend: Callable[..., UserSgl], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sgl, "dma_map_sg", lambda *_: 0)
    pages = UserPages(USABLE)
    with pytest.raises(Errno) as caught:
        lend(pages.address, PAGE, DMA_TO_DEVICE)
    assert caught.value.errno == errno.EIO


def test_no_memory_for_the_list(lend: Callable[..., UserSgl], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was mapped before is given back: the fixture sees no leak at its end."""

    def none_left(*_: object) -> None:
        raise Errno(errno.ENOMEM)

    monkeypatch.setattr(sgl, "dma_alloc_coherent", none_left)
    pages = UserPages(USABLE)
    with pytest.raises(Errno) as caught:
        lend(pages.address, PAGE, DMA_TO_DEVICE)
    assert caught.value.errno == errno.ENOMEM


def test_pieces_that_do_not_add_up(
    lend: Callable[..., UserSgl], monkeypatch: pytest.MonkeyPatch, shared_driver: Driver
) -> None:
    whole = sgl.sg_alloc_table_from_pages
    monkeypatch.setattr(sgl, "sg_alloc_table_from_pages", lambda pages, offset, size: whole(pages, offset, size - 1))
    pages = UserPages(USABLE)
    with pytest.raises(Errno) as caught:
        lend(pages.address, PAGE, DMA_TO_DEVICE)
    assert caught.value.errno == errno.EIO
