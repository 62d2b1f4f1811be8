# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Scatter-gather lists of AES commands (spec 02 C.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ihsm.bus import DmaArena, DmaBuffer
from ihsm_abi.aes_queue import SGL_DESCRIPTOR, SGL_DESCRIPTORS_PER_SEGMENT, SglType
from ihsm_abi.pci import PAGE_BYTES

DATA_PER_SEGMENT: Final = SGL_DESCRIPTORS_PER_SEGMENT - 1
"""Data blocks in a segment that another one follows: the last descriptor is the link."""
DESCRIPTOR_BYTES: Final = SGL_DESCRIPTOR.itemsize


def type_byte(kind: SglType) -> int:
    """Last byte of a descriptor: the type in its high nibble, sub-type 0."""
    return kind << 4


class Piece(NamedTuple):
    """Contiguous part of a transfer."""

    iova: int
    size_bytes: int


class ScatterGatherList(NamedTuple):
    """Segments in DMA memory, and the descriptor of the first one, which goes into the SQE."""

    memory: DmaBuffer | None
    addr: int
    len: int
    type: int
    size_bytes: int
    """Sum of the data blocks."""


EMPTY_LIST: Final = ScatterGatherList(None, 0, 0, 0, 0)
"""Nothing to transfer: all 20 bytes of the data area are 0."""


def build_list(arena: DmaArena, pieces: Sequence[Piece]) -> ScatterGatherList:
    """Lay out a list in consecutive pages of `arena`; the caller releases `memory` after the command.

    Raises:
        ArenaError: no room for the segments.
    """
    if not pieces:
        return EMPTY_LIST
    segments = -(-len(pieces) // DATA_PER_SEGMENT)
    memory = arena.allocate_pages(segments * PAGE_BYTES)
    table: NDArray[np.void] = memory.view.view(SGL_DESCRIPTOR).reshape(segments, SGL_DESCRIPTORS_PER_SEGMENT)
    heads: list[tuple[int, int, int]] = []
    for segment in range(segments):
        part = pieces[segment * DATA_PER_SEGMENT : (segment + 1) * DATA_PER_SEGMENT]
        rows = table[segment, : len(part)]
        rows["addr"] = [piece.iova for piece in part]
        rows["len"] = [piece.size_bytes for piece in part]
        rows["type"] = type_byte(SglType.DATA_BLOCK)
        last = segment == segments - 1
        heads.append(
            (
                memory.iova + segment * PAGE_BYTES,
                len(part) * DESCRIPTOR_BYTES if last else PAGE_BYTES,
                type_byte(SglType.LAST_SEGMENT if last else SglType.SEGMENT),
            )
        )
    for segment in range(segments - 1):
        link = table[segment, DATA_PER_SEGMENT]
        link["addr"], link["len"], link["type"] = heads[segment + 1]
    return ScatterGatherList(memory, *heads[0], sum(piece.size_bytes for piece in pieces))


def data_blocks(iovas: NDArray[np.uint64], sizes: NDArray[np.uint32]) -> NDArray[np.void]:
    """Descriptors for the SQEs of many contiguous transfers: without a list, the SQE has the data block itself.

    Args:
        iovas: I/O address of each transfer's data, shape (n,).
        sizes: bytes of each, shape (n,); a transfer of 0 bytes gets an empty descriptor.
    """
    blocks = np.zeros(len(iovas), SGL_DESCRIPTOR)
    blocks["addr"] = np.where(sizes > 0, iovas, 0)
    blocks["len"] = sizes
    blocks["type"] = type_byte(SglType.DATA_BLOCK)
    return blocks
