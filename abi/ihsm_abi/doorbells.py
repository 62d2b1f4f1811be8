# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""BAR2: doorbell arithmetic (spec 01 §3)."""

from typing import Final, NamedTuple

STRIDE_BYTES: Final = 4
"""Distance of neighbouring doorbells for CAP.DSTRD = 0: 4 << DSTRD."""

POLLER_ASLEEP_OFFSET: Final = 0xFFC
"""Our extension, in a doorbell page that the client maps: a word the device sets while its poller sleeps.

It is the place of a doorbell that no queue has. A client that stores a doorbell, then issues a full barrier, then finds
the word non-zero must write to the kick descriptor (GET_REGION_IO_FDS of BAR2); otherwise the poller notices later.
"""


class Doorbell(NamedTuple):
    """Which doorbell an offset of BAR2 is."""

    queue_id: int
    is_cq_head: bool


def sq_tail_offset(queue_id: int, dstrd: int = 0) -> int:
    """Byte offset of the SQ tail doorbell of a queue in BAR2."""
    return 2 * queue_id * (STRIDE_BYTES << dstrd)


def cq_head_offset(queue_id: int, dstrd: int = 0) -> int:
    """Byte offset of the CQ head doorbell of a queue in BAR2."""
    return (2 * queue_id + 1) * (STRIDE_BYTES << dstrd)


def decode(offset: int) -> Doorbell | None:
    """Doorbell at a byte offset of BAR2, None if the offset is not a multiple of the stride."""
    index, rest = divmod(offset, STRIDE_BYTES)
    return None if rest else Doorbell(index // 2, bool(index % 2))
