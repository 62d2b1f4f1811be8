# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Region infos, well-formed and not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.bus import vfio_abi
from ihsm.bus.vfio_abi import MmapArea, RegionFlags, parse_region_info
from ihsm.errors import ProtocolError

HEAD = vfio_abi.REGION_INFO.size


def sparse(areas: list[tuple[int, int]], *, following: int = 0, count: int | None = None) -> bytes:
    head = vfio_abi.SPARSE_HEADER.pack(1, 1, following, len(areas) if count is None else count, 0)
    return head + b"".join(vfio_abi.AREA.pack(*area) for area in areas)


def info(tail: bytes, flags: int = 0xF, index: int = 2, size: int = 4096) -> bytes:
    return vfio_abi.REGION_INFO.pack(HEAD + len(tail), flags, index, HEAD, size, 0x2000) + tail


def test_sparse_areas_are_read() -> None:
    region = parse_region_info(info(sparse([(0, 1024), (2048, 2048)])), 2)
    assert region.areas == (MmapArea(0, 1024), MmapArea(2048, 2048))
    assert (region.size, region.offset) == (4096, 0x2000)


def test_a_region_without_capabilities_is_mappable_as_a_whole() -> None:
    assert parse_region_info(info(b"", RegionFlags.MMAP | RegionFlags.READ), 2).areas == (MmapArea(0, 4096),)
    assert parse_region_info(info(b"", RegionFlags.READ), 2).areas == ()


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        info(b"")[:-1],
        info(b"", index=1),
        info(b""),
        info(sparse([(0, 4097)])),
        info(sparse([(2**64 - 1, 2)])),
        info(sparse([], count=65)),
        info(sparse([(0, 1)], count=2)),
        info(sparse([(0, 1)], following=HEAD)),
        info(sparse([(0, 1)], following=10_000)),
    ],
)
def test_broken_infos_are_refused(reply: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_region_info(reply, 2)


@given(st.binary(max_size=200))
def test_any_bytes_give_an_info_or_an_error(reply: bytes) -> None:
    try:
        region = parse_region_info(reply, 2)
    except ProtocolError:
        return
    assert all(area.offset + area.size <= region.size for area in region.areas)
