# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Buffers: of the arena where there is room, else with an arena of their own that goes with them."""

from __future__ import annotations

import mmap

import pytest

from ihsm.bus import DmaArena
from ihsm.driver.buffers import MAX_BUFFER_BYTES, Buffers
from ihsm.errors import ArenaFullError, BusError, RequestRefusedError, ResourceError

IOVA = 1 << 32


class Maker:
    """Makes arenas, and knows which are mapped."""

    def __init__(self) -> None:
        self.mapped: list[DmaArena] = []
        self.refusal: Exception | None = None

    def new(self, size_bytes: int) -> DmaArena:
        if self.refusal is not None:
            raise self.refusal
        whole = -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        arena = DmaArena(mmap.mmap(-1, whole), IOVA << len(self.mapped), lambda: self.mapped.remove(arena))
        self.mapped.append(arena)
        return arena

    def drop(self, arena: DmaArena) -> None:
        arena.close()
        if self.refusal is not None:
            raise self.refusal


@pytest.fixture
def maker() -> Maker:
    return Maker()


@pytest.fixture
def buffers(maker: Maker) -> Buffers:
    return Buffers(maker.new(8192), maker.new, maker.drop)


def test_what_fits_is_of_the_arena(maker: Maker, buffers: Buffers) -> None:
    with buffers.allocate(4096) as first, buffers.allocate(4096) as second:
        assert {first.iova, second.iova} == {IOVA, IOVA + 4096}
        assert len(maker.mapped) == 1
    assert maker.mapped[0].free_bytes == 8192


def test_what_does_not_fit_has_an_arena_of_its_own(maker: Maker, buffers: Buffers) -> None:
    with buffers.allocate(4096), buffers.allocate(4097) as lone:
        assert len(maker.mapped) == 2
        assert (lone.iova, lone.size_bytes, len(lone.view)) == (maker.mapped[1].iova, 4097, 4097)
        lone.view[:] = 7
    assert len(maker.mapped) == 1
    lone.release()
    assert len(maker.mapped) == 1


def test_the_arena_is_not_given_back_early(maker: Maker, buffers: Buffers) -> None:
    view = buffers.allocate(10000).view
    view[:] = 5  # the buffer object is gone, its memory is not
    assert len(maker.mapped) == 2
    assert (view == 5).all()


@pytest.mark.parametrize(
    "refusal", [ArenaFullError("locked memory"), RequestRefusedError("map", 12), ResourceError("descriptors", 24)]
)
def test_no_memory_for_another(maker: Maker, buffers: Buffers, refusal: Exception) -> None:
    maker.refusal = refusal
    with pytest.raises(
        ArenaFullError, match=r"no room for 9000 bytes .* no memory for another: .*buffer_bytes="
    ) as caught:
        buffers.allocate(9000)
    assert str(refusal) in str(caught.value)
    buffers.allocate(8192).release()


def test_more_than_an_arena_can_have(maker: Maker, buffers: Buffers) -> None:
    with pytest.raises(ArenaFullError, match=f"no room for {MAX_BUFFER_BYTES + 1} bytes"):
        buffers.allocate(MAX_BUFFER_BYTES + 1)
    assert len(maker.mapped) == 1


def test_a_device_that_is_gone_has_no_access_any_more(maker: Maker, buffers: Buffers) -> None:
    lone = buffers.allocate(9000)
    maker.refusal = BusError("gone")
    lone.release()
    assert len(maker.mapped) == 1
