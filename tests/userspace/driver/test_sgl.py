# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Scatter-gather lists as spec 02 C.4 has them."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.bus import DmaArena
from ihsm.driver.sgl import EMPTY_LIST, Piece, build_list, data_blocks
from ihsm_abi.aes_queue import SGL_DESCRIPTOR

BASE = 0x3_0000_0000


@pytest.fixture
def arena() -> Iterator[DmaArena]:
    with DmaArena(mmap.mmap(-1, 1 << 20), BASE, lambda: None) as arena:
        yield arena


def test_600_pages_make_the_three_segments_of_the_example(arena: DmaArena) -> None:
    made = build_list(arena, [Piece(0x1000 * n, 4096) for n in range(600)])
    assert made.memory is not None
    assert (made.addr, made.len, made.type, made.size_bytes) == (BASE, 4096, 0x20, 600 * 4096)
    table = made.memory.view.tobytes()
    assert table[255 * 16 : 256 * 16] == bytes.fromhex("00100000 03000000 00100000 00000020")
    assert table[4096 + 255 * 16 : 8192] == bytes.fromhex("00200000 03000000 a0050000 00000030")
    assert len(table) == 3 * 4096


def test_no_pieces_no_list(arena: DmaArena) -> None:
    assert build_list(arena, []) is EMPTY_LIST
    assert arena.free_bytes == 1 << 20


def walk(arena: DmaArena, addr: int, length: int, kind: int) -> list[tuple[int, int]]:
    """Data blocks of a list, read as the device reads it."""
    found: list[tuple[int, int]] = []
    while True:
        start = addr - arena.iova
        rows = np.frombuffer(arena.array[start : start + length].tobytes(), SGL_DESCRIPTOR)
        blocks = rows if kind == 0x30 else rows[:-1]
        assert (blocks["type"] == 0).all()
        found += [(int(row["addr"]), int(row["len"])) for row in blocks]
        if kind == 0x30:
            return found
        assert kind == 0x20
        addr, length, kind = int(rows[-1]["addr"]), int(rows[-1]["len"]), int(rows[-1]["type"])


@given(st.integers(1, 1100))
@settings(max_examples=40)
def test_every_list_walks_back_to_its_pieces(count: int) -> None:
    pieces = [Piece(0x10000 * n + n % 7, 1 + n * 37 % 5000) for n in range(count)]
    with DmaArena(mmap.mmap(-1, 1 << 20), BASE, lambda: None) as arena:
        made = build_list(arena, pieces)
        assert walk(arena, made.addr, made.len, made.type) == [tuple(piece) for piece in pieces]
        assert made.size_bytes == sum(piece.size_bytes for piece in pieces)
        assert made.memory is not None
        made.memory.release()
        assert arena.free_bytes == 1 << 20


def test_contiguous_transfers_need_no_list() -> None:
    blocks = data_blocks(np.array([16, 32, 48], np.uint64), np.array([100, 0, 7], np.uint32))
    assert blocks.tobytes() == bytes.fromhex(
        "10000000 00000000 64000000 00000000" + "00" * 16 + "30000000 00000000 07000000 00000000"
    )
