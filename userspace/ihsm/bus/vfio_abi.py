# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Structures of Linux's VFIO interface (<linux/vfio.h>) that both the kernel and the vfio-user protocol use."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum, IntFlag
from struct import Struct
from struct import error as StructError
from typing import Final, NamedTuple

from ihsm.errors import ProtocolError


class Region(IntEnum):
    """Region indexes of a PCI device."""

    BAR0 = 0
    BAR1 = 1
    BAR2 = 2
    BAR3 = 3
    BAR4 = 4
    BAR5 = 5
    ROM = 6
    CONFIG = 7


class Irq(IntEnum):
    """Interrupt indexes of a PCI device."""

    INTX = 0
    MSI = 1
    MSIX = 2


class DeviceFlags(IntFlag):
    """vfio_device_info.flags."""

    RESET = 1 << 0
    PCI = 1 << 1


class RegionFlags(IntFlag):
    """vfio_region_info.flags."""

    READ = 1 << 0
    WRITE = 1 << 1
    MMAP = 1 << 2
    CAPS = 1 << 3


class IrqSetFlags(IntFlag):
    """vfio_irq_set.flags: one data type and one action."""

    DATA_NONE = 1 << 0
    DATA_EVENTFD = 1 << 2
    ACTION_TRIGGER = 1 << 5


class DmaFlags(IntFlag):
    """Direction of a DMA mapping, as the device sees it."""

    READ = 1 << 0
    WRITE = 1 << 1


class RegionCapability(IntEnum):
    """Ids in the capability chain of vfio_region_info."""

    SPARSE_MMAP = 1
    MSIX_MAPPABLE = 3


DEVICE_INFO: Final = Struct("<IIII")
"""argsz, flags, num_regions, num_irqs."""
REGION_INFO: Final = Struct("<IIIIQQ")
"""argsz, flags, index, cap_offset, size, offset."""
IRQ_INFO: Final = Struct("<IIII")
"""argsz, flags, index, count."""
IRQ_SET: Final = Struct("<IIIII")
"""argsz, flags, index, start, count; descriptors follow as ancillary data or int array."""
CAPABILITY_HEADER: Final = Struct("<HHI")
"""id, version, next: offset from the start of the structure that carries the chain, 0 ends it."""
SPARSE_HEADER: Final = Struct("<HHIII")
"""Capability header, nr_areas, reserved."""
AREA: Final = Struct("<QQ")
"""offset, size; also start, end of an IOVA range."""

MAX_SPARSE_AREAS: Final = 64
"""More than a BAR of one page can sensibly have; a bound on what a server may claim."""


class MmapArea(NamedTuple):
    """Part of a region that may be mapped; offsets are bytes from the start of the region."""

    offset: int
    size: int


class RegionInfo(NamedTuple):
    """What the other end says of one region."""

    region: int
    flags: RegionFlags
    size: int
    offset: int
    """Where the region starts in the file that gives access to it."""
    areas: tuple[MmapArea, ...]
    """Mappable parts; empty if the region cannot be mapped at all."""


def capability_chain(reply: bytes, first: int) -> Iterator[tuple[int, int]]:
    """(id, offset) of each capability in `reply` from offset `first` on.

    Raises:
        ProtocolError: an offset outside the reply, or a chain that turns back.
    """
    offset = first
    while offset:
        if offset + CAPABILITY_HEADER.size > len(reply):
            raise ProtocolError(f"capability at offset {offset} lies outside the {len(reply)} bytes of the answer")
        identifier, _, following = CAPABILITY_HEADER.unpack_from(reply, offset)
        yield identifier, offset
        if following and following <= offset:
            raise ProtocolError(f"capability chain turns back from offset {offset} to {following}")
        offset = following


def parse_region_info(reply: bytes, index: int) -> RegionInfo:
    """Decode a vfio_region_info with its capabilities.

    Raises:
        ProtocolError: for another region, inconsistent sizes or a broken capability chain.
    """
    if len(reply) < REGION_INFO.size:
        raise ProtocolError(f"region info of {len(reply)} bytes, at least {REGION_INFO.size} expected")
    _, raw_flags, answered, cap_offset, size, offset = REGION_INFO.unpack_from(reply)
    if answered != index:
        raise ProtocolError(f"region info for region {answered}, asked for {index}")
    flags = RegionFlags(raw_flags & 0xF)
    areas: tuple[MmapArea, ...] = (MmapArea(0, size),) if flags & RegionFlags.MMAP else ()
    if flags & RegionFlags.CAPS:
        for identifier, position in capability_chain(reply, cap_offset):
            if identifier == RegionCapability.SPARSE_MMAP and flags & RegionFlags.MMAP:
                areas = _sparse_areas(reply, position, size)
    return RegionInfo(index, flags, size, offset, areas)


def _sparse_areas(reply: bytes, position: int, region_size: int) -> tuple[MmapArea, ...]:
    try:
        count = SPARSE_HEADER.unpack_from(reply, position)[3]
        if count > MAX_SPARSE_AREAS:
            raise ProtocolError(f"{count} mappable areas in one region, at most {MAX_SPARSE_AREAS} accepted")
        start = position + SPARSE_HEADER.size
        areas = tuple(MmapArea(*AREA.unpack_from(reply, start + number * AREA.size)) for number in range(count))
    except StructError:
        raise ProtocolError("list of mappable areas lies outside the answer") from None
    for area in areas:
        if area.offset + area.size > region_size:
            raise ProtocolError(
                f"mappable area {area.offset:#x}+{area.size:#x} exceeds region of {region_size:#x} bytes"
            )
    return areas
