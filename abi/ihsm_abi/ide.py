# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The IDE extended capability: one link stream and one selective stream (PCI Express Base 6.x 6.33 and 7.9.26).

The selective stream's block has no address association registers.
"""

from enum import IntEnum
from typing import Final

from ihsm_abi.bits import Bits, Word

IDE_VERSION: Final = 1
IDE_CAPABILITY_OFFSET: Final = 0x04
IDE_CONTROL_OFFSET: Final = 0x08
IDE_LINK_CONTROL_OFFSET: Final = 0x0C
IDE_LINK_STATUS_OFFSET: Final = 0x10
IDE_SELECTIVE_CAPABILITY_OFFSET: Final = 0x14
IDE_SELECTIVE_CONTROL_OFFSET: Final = 0x18
IDE_SELECTIVE_STATUS_OFFSET: Final = 0x1C
IDE_RID_ASSOCIATION1_OFFSET: Final = 0x20
IDE_RID_ASSOCIATION2_OFFSET: Final = 0x24
IDE_BYTES: Final = 0x28
"""Of the whole capability with its header."""
IDE_REGISTER_BYTES: Final = 4


class IdeCapability(Word):
    """IDE Capability register; the numbers of traffic classes and of selective streams are one less than there are."""

    link_stream = Bits(0)
    selective_streams = Bits(1)
    flow_through = Bits(2)
    partial_header_encryption = Bits(3)
    aggregation = Bits(4)
    pcrc = Bits(5)
    ide_km = Bits(6)
    selective_for_config = Bits(7)
    algorithms = Bits(8, 5)
    """0: AES-GCM with keys of 256 bits and MACs of 96."""
    link_classes = Bits(13, 3)
    selective_number = Bits(16, 8)
    tee_limited = Bits(24)


class IdeLinkControl(Word):
    """Link IDE Stream Control register, what of it this device has."""

    enable = Bits(0)
    algorithm = Bits(14, 5)
    traffic_class = Bits(19, 3)
    stream_id = Bits(24, 8)


class IdeSelectiveControl(Word):
    """Selective IDE Stream Control register, what of it this device has."""

    enable = Bits(0)
    algorithm = Bits(14, 5)
    traffic_class = Bits(19, 3)
    default_stream = Bits(22)
    stream_id = Bits(24, 8)


class IdeStreamStatus(Word):
    """Status register of a link stream and of a selective one."""

    state = Bits(0, 4)
    integrity_check_failed = Bits(31)


class IdeSelectiveCapability(Word):
    """Selective IDE Stream Capability register."""

    address_blocks = Bits(0, 4)


class IdeRidAssociation1(Word):
    """IDE RID Association register 1."""

    limit = Bits(8, 16)


class IdeRidAssociation2(Word):
    """IDE RID Association register 2."""

    valid = Bits(0)
    base = Bits(8, 16)
    segment = Bits(24, 8)


class StreamState(IntEnum):
    """Of a stream, in its status register."""

    INSECURE = 0
    SECURE = 2
