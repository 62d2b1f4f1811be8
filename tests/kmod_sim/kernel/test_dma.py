# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Memory that the device reaches: where it is, what is in it, and for how long."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Iterator
from typing import Literal

import pytest

from ihsm_kmod.kernel.dma import (
    DMA_BIDIRECTIONAL,
    DMA_FROM_DEVICE,
    DMA_TO_DEVICE,
    PAGES_PER_PIECE,
    DmaDirection,
    dma_alloc_coherent,
    dma_free_coherent,
    dma_map_sg,
    dma_set_mask_and_coherent,
    dma_unmap_sg,
)
from ihsm_kmod.kernel.dma_debug import POISON_FREE
from ihsm_kmod.kernel.dma_device import ARENA_BYTES
from ihsm_kmod.kernel.dma_pool import (
    POISON_ALLOCATED,
    POISON_FREED,
    dma_pool_alloc,
    dma_pool_create,
    dma_pool_destroy,
    dma_pool_free,
)
from ihsm_kmod.kernel.errors import Errno
from ihsm_kmod.kernel.mm import PAGE_SIZE, Page, ProcessMemory, ScatterList, sg_alloc_table_from_pages
from ihsm_kmod.kernel.pci import pci_unregister_driver
from ihsm_kmod.kernel.report import ReportKind
from support.fake_function import IOVA_BASE, FakeFunction
from support.pci_drivers import BDF, Bench, running
from support.user_pages import GONE, USABLE, UserPages
from support.waiting import ended


@pytest.fixture(params=["shared", "strict"])
def dma(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The bench, with either way of mapping."""
    yield from bench_with(request.param)


@pytest.fixture
def strict() -> Iterator[Bench]:
    yield from bench_with("strict")


@pytest.fixture
def shared() -> Iterator[Bench]:
    yield from bench_with("shared")


def bench_with(dma: Literal["shared", "strict"]) -> Iterator[Bench]:
    with FakeFunction() as function, running(dma) as kernel:
        bench = Bench(kernel, function)
        yield bench
        bench.run(pci_unregister_driver, bench.driver)


def scatter(pages: UserPages, count: int, offset: int, size: int) -> ScatterList:
    mm = ProcessMemory(os.getpid())
    return sg_alloc_table_from_pages(
        [Page(mm, pages.address + number * PAGE_SIZE) for number in range(count)], offset, size
    )


@pytest.mark.parametrize("size", [1, PAGE_SIZE, PAGE_SIZE + 1, ARENA_BYTES + 1])
def test_coherent_memory_is_zero_begins_a_page_and_is_one_for_both(dma: Bench, size: int) -> None:
    memory = dma.run(dma_alloc_coherent, dma.pdev, size)
    assert memory.dma_handle % PAGE_SIZE == 0
    assert memory.size == memory.view.size == size
    assert not memory.view.any()
    memory.view[-1] = 0x5A
    assert dma.function.read_memory(memory.dma_handle + size - 1, 1) == b"\x5a"
    assert dma.function.write_memory(memory.dma_handle, b"\xa5")
    assert memory.view[0] == 0xA5
    dma.run(dma_free_coherent, dma.pdev, memory)


def test_coherent_memory_is_zero_again_for_its_next_owner(dma: Bench) -> None:
    for _ in range(2):
        memory = dma.run(dma_alloc_coherent, dma.pdev, PAGE_SIZE)
        assert not memory.view.any()
        memory.view[:] = 0xFF
        dma.run(dma_free_coherent, dma.pdev, memory)


def test_an_old_array_sees_poison(dma: Bench) -> None:
    memory = dma.run(dma_alloc_coherent, dma.pdev, PAGE_SIZE)
    ring = memory.view
    dma.run(dma_free_coherent, dma.pdev, memory)
    assert set(ring.tolist()) == {POISON_FREE}


def test_shared_allocations_take_few_regions_of_the_device(shared: Bench) -> None:
    memories = [shared.run(dma_alloc_coherent, shared.pdev, PAGE_SIZE) for _ in range(100)]
    assert shared.function.arenas == 1
    for memory in memories:
        shared.run(dma_free_coherent, shared.pdev, memory)


def test_strict_a_late_access_of_the_device_fails(strict: Bench) -> None:
    coherent = strict.run(dma_alloc_coherent, strict.pdev, PAGE_SIZE)
    pool = strict.run(dma_pool_create, "pages", strict.pdev, 64, 64)
    blocks = [strict.run(dma_pool_alloc, pool) for _ in range(2)]
    entries = scatter(UserPages(USABLE), 1, 0, PAGE_SIZE)
    strict.run(dma_map_sg, strict.pdev, entries, DMA_TO_DEVICE)
    addresses = [coherent.dma_handle, blocks[0].dma_handle, entries[0].dma_address]
    assert None not in [strict.function.read_memory(address, 1) for address in addresses]
    strict.run(dma_free_coherent, strict.pdev, coherent)
    strict.run(dma_pool_free, pool, blocks[0])
    strict.run(dma_unmap_sg, strict.pdev, entries, DMA_TO_DEVICE)
    assert [strict.function.read_memory(address, 1) for address in addresses] == [None] * 3
    assert [strict.function.write_memory(address, b"late") for address in addresses] == [False] * 3
    assert strict.function.read_memory(blocks[1].dma_handle, 1) is not None, "its neighbour is still there"
    strict.run(dma_pool_free, pool, blocks[1])
    strict.run(dma_pool_destroy, pool)
    assert strict.function.arenas == 0


def test_a_driver_that_does_not_say_how_it_addresses_has_32_bits(dma: Bench) -> None:
    dma.run(dma_set_mask_and_coherent, dma.pdev, 32)
    with pytest.raises(Errno, match="overflow") as error:
        dma.run(dma_alloc_coherent, dma.pdev, PAGE_SIZE)
    assert error.value.errno == errno.ENOMEM
    assert dma.run(dma_map_sg, dma.pdev, scatter(UserPages(USABLE), 1, 0, 8), DMA_TO_DEVICE) == 0
    dma.run(dma_set_mask_and_coherent, dma.pdev, 33)
    dma.run(dma_free_coherent, dma.pdev, dma.run(dma_alloc_coherent, dma.pdev, PAGE_SIZE))
    assert IOVA_BASE >> 32


@pytest.mark.parametrize("bits", [0, 31, 65])
def test_a_mask_that_nothing_can_meet_is_refused(dma: Bench, bits: int) -> None:
    with pytest.raises(Errno) as error:
        dma.run(dma_set_mask_and_coherent, dma.pdev, bits)
    assert error.value.errno == errno.EIO


def test_without_memory_there_is_an_error_and_a_line_in_the_log(dma: Bench) -> None:
    dma.function.max_arenas = 0
    with pytest.raises(Errno) as error:
        dma.run(dma_alloc_coherent, dma.pdev, PAGE_SIZE)
    assert error.value.errno == errno.ENOMEM
    assert dma.run(dma_map_sg, dma.pdev, scatter(UserPages(USABLE), 1, 0, 8), DMA_TO_DEVICE) == 0
    assert sum("toy 0000:00:04.0: ENOMEM" in record.text for record in dma.kernel.log) == 2


def test_a_mapping_that_ends_half_way_gives_back_what_it_had(strict: Bench) -> None:
    page = Page(ProcessMemory(os.getpid()), 0)
    entries = sg_alloc_table_from_pages([page] * (PAGES_PER_PIECE + 1), 0, (PAGES_PER_PIECE + 1) * PAGE_SIZE)
    strict.function.max_arenas = 1
    assert strict.run(dma_map_sg, strict.pdev, entries, DMA_TO_DEVICE) == 0
    assert strict.function.arenas == 0
    strict.function.max_arenas = 2
    assert strict.run(dma_map_sg, strict.pdev, entries, DMA_TO_DEVICE) == PAGES_PER_PIECE + 1
    strict.run(dma_unmap_sg, strict.pdev, entries, DMA_TO_DEVICE)


def test_threads_take_blocks_and_give_them_back(shared: Bench) -> None:
    pool = shared.run(dma_pool_create, "pages", shared.pdev, 64, 64)

    def take_and_give() -> None:
        for _ in range(100):
            blocks = [dma_pool_alloc(pool) for _ in range(3)]
            for block in blocks:
                block.view[:] = threading.get_ident() % 251
            for block in blocks:
                assert set(block.view.tolist()) == {threading.get_ident() % 251}
                dma_pool_free(pool, block)

    threads = [threading.Thread(target=shared.run, args=(take_and_give,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    ended(*threads)
    shared.run(dma_pool_destroy, pool)
    assert shared.kernel.crashed is None
    assert shared.kernel.reports == []


@pytest.mark.parametrize(("size", "alignment"), [(64, 64), (24, 8), (24, 32), (PAGE_SIZE, PAGE_SIZE), (5000, 4096)])
def test_blocks_are_aligned_apart_and_not_cleared(dma: Bench, size: int, alignment: int) -> None:
    pool = dma.run(dma_pool_create, "pages", dma.pdev, size, alignment)
    blocks = [dma.run(dma_pool_alloc, pool) for _ in range(200 if size < PAGE_SIZE else 5)]
    addresses = sorted(block.dma_handle for block in blocks)
    assert all(address % alignment == 0 for address in addresses)
    assert all(after - before >= size for before, after in itertools.pairwise(addresses))
    for number, block in enumerate(blocks):
        assert set(block.view.tolist()) == {POISON_ALLOCATED}
        block.view[:] = number % 256
    for number, block in enumerate(blocks):
        assert dma.function.read_memory(block.dma_handle, size) == bytes([number % 256]) * size
        view = block.view
        dma.run(dma_pool_free, pool, block)
        assert set(view.tolist()) == {POISON_FREED}
    again = dma.run(dma_pool_alloc, pool)
    assert set(again.view.tolist()) <= {POISON_ALLOCATED, POISON_FREED}
    dma.run(dma_pool_free, pool, again)
    dma.run(dma_pool_destroy, pool)


@pytest.mark.parametrize(("size", "alignment"), [(0, 8), (8, 0), (8, 3), (8, 2 * PAGE_SIZE)])
def test_a_pool_that_cannot_be(dma: Bench, size: int, alignment: int) -> None:
    with pytest.raises(Errno) as error:
        dma.run(dma_pool_create, "pages", dma.pdev, size, alignment)
    assert error.value.errno == errno.EINVAL


@pytest.mark.parametrize("direction", DmaDirection)
def test_a_streaming_mapping_copies_both_ways(dma: Bench, direction: DmaDirection) -> None:
    pages, offset, size = UserPages(USABLE, USABLE, USABLE), 100, 2 * PAGE_SIZE + 50
    before = os.urandom(3 * PAGE_SIZE)
    pages.put(0, before)
    entries = scatter(pages, 3, offset, size)
    assert dma.run(dma_map_sg, dma.pdev, entries, direction) == 3
    assert [entry.dma_length for entry in entries] == [PAGE_SIZE - 100, PAGE_SIZE, 150]
    assert [entry.dma_address % PAGE_SIZE for entry in entries] == [100, 0, 0]
    seen = [dma.function.read_memory(entry.dma_address, entry.dma_length) for entry in entries]
    assert b"".join(piece or b"?" for piece in seen) == before[offset : offset + size]
    # The device writes to all but the last 8 bytes, which must then be what they were.
    for entry in entries[:2]:
        dma.function.write_memory(entry.dma_address, b"w" * entry.dma_length)
    dma.function.write_memory(entries[2].dma_address, b"w" * (entries[2].dma_length - 8))
    assert pages.get(0, 3 * PAGE_SIZE) == before
    dma.run(dma_unmap_sg, dma.pdev, entries, direction)
    written = before[:offset] + b"w" * (size - 8) + before[offset + size - 8 :]
    assert pages.get(0, 3 * PAGE_SIZE) == (before if direction is DMA_TO_DEVICE else written)


def test_no_two_pages_of_a_mapping_are_neighbours(dma: Bench) -> None:
    count = 300
    entries = sg_alloc_table_from_pages([Page(ProcessMemory(os.getpid()), 0)] * count, 0, count * PAGE_SIZE)
    assert dma.run(dma_map_sg, dma.pdev, entries, DMA_BIDIRECTIONAL) == count
    numbers = sorted(entry.dma_address // PAGE_SIZE for entry in entries)
    assert all(after - before > 1 for before, after in itertools.pairwise(numbers))
    dma.run(dma_unmap_sg, dma.pdev, entries, DMA_BIDIRECTIONAL)


def test_an_empty_list_maps_to_nothing(dma: Bench) -> None:
    assert dma.run(dma_map_sg, dma.pdev, ScatterList(), DMA_TO_DEVICE) == 0


def test_a_program_may_unmap_what_the_device_writes_to(dma: Bench) -> None:
    pages = UserPages(USABLE)
    entries = scatter(pages, 1, 0, PAGE_SIZE)
    dma.run(dma_map_sg, dma.pdev, entries, DMA_FROM_DEVICE)
    gone = UserPages(GONE)
    entries[0].page = Page(entries[0].page.mm, gone.address)
    dma.run(dma_unmap_sg, dma.pdev, entries, DMA_FROM_DEVICE)


def test_memory_of_a_device_that_was_pulled_out_can_be_given_back(dma: Bench) -> None:
    memory = dma.run(dma_alloc_coherent, dma.pdev, PAGE_SIZE)
    dma.function.close()
    memory.view[0] = 1
    dma.run(dma_free_coherent, dma.pdev, memory)
    with pytest.raises(Errno) as error:
        dma.run(dma_alloc_coherent, dma.pdev, ARENA_BYTES + 1)
    assert error.value.errno == errno.ENOMEM


def test_what_a_call_under_way_gives_back_after_its_driver(shared: Bench) -> None:
    """It was missing when the driver let go, and is the driver's all the same."""
    memory = shared.run(dma_alloc_coherent, shared.pdev, PAGE_SIZE)
    for _ in range(2):
        shared.kernel.pci.unbind(BDF)
        shared.kernel.pci.bind(BDF)
    assert [report.kind for report in shared.kernel.reports] == [ReportKind.DMA_LEAK], "which is said once"
    shared.run(dma_free_coherent, shared.pdev, memory)
    assert len(shared.kernel.reports) == 1
    shared.run(dma_free_coherent, shared.pdev, memory)
    assert shared.kernel.reports.pop().kind is ReportKind.DMA_DOUBLE_FREE
    shared.kernel.reports.clear()
