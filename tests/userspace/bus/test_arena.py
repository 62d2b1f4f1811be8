# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The arena's allocator against a plain model, and what must be refused."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ihsm.bus import DmaArena
from ihsm.bus.arena import DmaBuffer
from ihsm.errors import ArenaError

PAGE = 4096
IOVA = 0x1_0000_0000


def make_arena(pages: int = 8) -> tuple[DmaArena, list[str]]:
    calls: list[str] = []
    return DmaArena(mmap.mmap(-1, pages * PAGE), IOVA, lambda: calls.append("unmap")), calls


steps = st.lists(
    st.one_of(
        st.tuples(st.just("allocate"), st.integers(1, 3 * PAGE), st.sampled_from([1, 16, 64, 4096])),
        st.tuples(st.just("release"), st.integers(0, 50), st.just(0)),
    ),
    max_size=60,
)


def fits(live: list[DmaBuffer], arena: DmaArena, size: int, alignment: int) -> bool:
    """Whether a gap between buffers has room at an aligned address."""
    taken = sorted((buffer.iova, buffer.iova + buffer.size_bytes) for buffer in live)
    starts = [arena.iova, *(end for _, end in taken)]
    ends = [*(start for start, _ in taken), arena.iova + arena.size_bytes]
    return any(-(-start // alignment) * alignment + size <= end for start, end in zip(starts, ends, strict=True))


@given(steps)
@example([("allocate", 1, 1), ("allocate", 8192, 4096), ("release", 0, 0), ("allocate", 24576, 1)])
@settings(max_examples=150)
def test_buffers_never_overlap_and_everything_comes_back(actions: list[tuple[str, int, int]]) -> None:
    arena, _ = make_arena()
    live: list[DmaBuffer] = []
    for action, number, alignment in actions:
        if action == "allocate":
            try:
                buffer = arena.allocate(number, alignment)
            except ArenaError:
                assert not fits(live, arena, number, alignment)
                continue
            assert buffer.iova % alignment == 0
            assert len(buffer.view) == number
            for other in live:
                assert buffer.iova + number <= other.iova or other.iova + other.size_bytes <= buffer.iova
            live.append(buffer)
        elif live:
            live.pop(number % len(live)).release()
        assert arena.free_bytes == arena.size_bytes - sum(buffer.size_bytes for buffer in live)
    for buffer in live:
        buffer.release()
    assert arena.allocate(arena.size_bytes, 4096).size_bytes == arena.size_bytes  # one piece again


def test_view_and_iova_name_the_same_bytes() -> None:
    arena, _ = make_arena()
    arena.allocate(100)
    buffer = arena.allocate(64)
    buffer.view[:] = 7
    start = buffer.iova - arena.iova
    assert (arena.array[start : start + 64] == 7).all()
    assert arena.iova_of(buffer.view[8:]) == buffer.iova + 8
    assert arena.iova_of(buffer.view[::2]) is None
    assert arena.iova_of(arena.array.copy()) is None


@pytest.mark.parametrize(("size", "alignment"), [(0, 64), (-1, 64), (8, 3), (8, 0), (8, 8192), (9 * PAGE, 64)])
def test_impossible_requests_are_refused(size: int, alignment: int) -> None:
    arena, _ = make_arena()
    with pytest.raises(ArenaError):
        arena.allocate(size, alignment)


def test_close_unmaps_once_and_leaves_held_views_usable() -> None:
    arena, calls = make_arena()
    buffer = arena.allocate(16)
    view = buffer.view
    arena.close()
    arena.close()
    assert calls == ["unmap"]
    view[:] = 1
    buffer.release()
    with pytest.raises(ArenaError, match="closed"):
        arena.allocate(1)
