# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What every way to reach a PCI function offers: config space, BARs, DMA memory, interrupts, reset."""

from __future__ import annotations

import mmap
import os
from abc import abstractmethod
from collections.abc import Sequence
from typing import Final

from ihsm.arguments import integer, whole
from ihsm.bus.arena import DmaArena
from ihsm.closing import Closing
from ihsm.errors import AccessError, ArgumentTypeError

BARS: Final = 6
WIDTHS: Final = (1, 2, 4, 8)
"""Widths in bytes that a BAR access may have."""


class PciFunction(Closing):
    """One PCI function. Methods may be called from any thread; after `close` all raise `BusError`."""

    uri: str
    """How to reach it again, as accepted by `ihsm.uri.open_function`."""

    @abstractmethod
    def read_config(self, offset: int, size_bytes: int) -> bytes:
        """Bytes of config space, any offset and size within it."""

    @abstractmethod
    def write_config(self, offset: int, data: bytes) -> None:
        """Write bytes of config space."""

    @property
    @abstractmethod
    def config_bytes(self) -> int:
        """Size of config space: 256 or 4096."""

    @abstractmethod
    def bar_bytes(self, bar: int) -> int:
        """Size of BAR 0-5; 0 if it does not exist."""

    @abstractmethod
    def read_bar(self, bar: int, offset: int, width: int) -> int:
        """One access of 1, 2, 4 or 8 bytes, little-endian."""

    @abstractmethod
    def write_bar(self, bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        """One access of 1, 2, 4 or 8 bytes, little-endian; a posted write may return before the device has seen it."""

    @abstractmethod
    def map_bar(self, bar: int) -> mmap.mmap | None:
        """The whole BAR mapped, None where that is not offered. The function owns the mapping."""

    @abstractmethod
    def write_event(self, bar: int) -> int | None:
        """Eventfd to signal after a store into the mapped BAR, None if the device watches without one."""

    @abstractmethod
    def allocate_arena(self, size_bytes: int) -> DmaArena:
        """Zeroed memory that the device can read and write; `size_bytes` is rounded up to pages.

        Raises:
            ArenaError: more than 64 MiB, or no I/O address left.
        """

    @property
    @abstractmethod
    def vectors(self) -> int:
        """Number of MSI-X vectors."""

    @abstractmethod
    def enable_interrupts(self, events: Sequence[int | None]) -> None:
        """Let vector i signal the eventfd `events[i]`; None leaves it off. Replaces what was enabled before."""

    @abstractmethod
    def disable_interrupts(self) -> None:
        """No vector signals any more."""

    @abstractmethod
    def reset(self) -> None:
        """Function reset: registers at their reset values, queues gone (spec 01 §14.8)."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the function; harmless the second time. Arenas are closed with it."""

    @property
    def bdf(self) -> str | None:
        """PCI address like 0000:00:04.0, None for a function that no bus of this machine has."""
        return None


def check_access(size_bytes: int, offset: int, width: int, what: str) -> None:
    """See that an access of `width` bytes at `offset` lies in `what`, which has `size_bytes` bytes.

    Raises:
        AccessError: it does not.
        ArgumentTypeError: offset or width is no whole number.
    """
    if type(offset) is not int or type(width) is not int:
        offset, width = whole(what, "offset", offset), whole(what, "width", width)
    if width not in WIDTHS:
        raise AccessError(f"{what}: access width {width} is none of 1, 2, 4, 8 bytes")
    if not 0 <= offset <= size_bytes - width:
        raise AccessError(f"{what}: access of {width} bytes at offset {offset:#x} exceeds its {size_bytes:#x} bytes")


def check_bar(bar: int) -> None:
    """See that a function can have a BAR of this number.

    Raises:
        ArgumentError, ArgumentTypeError: it cannot.
    """
    integer("PciFunction", "bar", bar, 0, BARS - 1)


def octets_of(value: int, width: int, what: str) -> bytes:
    """A value to write, little-endian.

    Raises:
        AccessError: it does not fit `width` bytes.
        ArgumentTypeError: it is no whole number.
    """
    try:
        return value.to_bytes(width, "little")
    except OverflowError:
        raise AccessError(f"{what}: value: {value:#x} does not fit {width} bytes") from None
    except AttributeError:
        raise ArgumentTypeError(what, "value", f"{type(value).__name__}, must be a whole number") from None


def drain_event(event: int) -> int:
    """Counter of a non-blocking eventfd, which is reset; 0 if it was not signalled."""
    try:
        return os.eventfd_read(event)
    except BlockingIOError:
        return 0
