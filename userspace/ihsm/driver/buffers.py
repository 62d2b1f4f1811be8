# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""DMA memory for data: an arena that is there from the start, and arenas of their own for what does not fit into it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from ihsm.bus import DmaArena, DmaBuffer
from ihsm.bus.arena import DEFAULT_ALIGNMENT, MAX_ARENA_BYTES
from ihsm.errors import ArenaFullError, BusError, IhsmError, ResourceError

_log = logging.getLogger(__name__)

MAX_BUFFER_BYTES: Final = MAX_ARENA_BYTES
"""What one buffer can have."""


class Buffers:
    """Where data of AES commands lie. May be used from any thread."""

    def __init__(
        self, arena: DmaArena, new_arena: Callable[[int], DmaArena], drop_arena: Callable[[DmaArena], None]
    ) -> None:
        """`new_arena` maps so many bytes for the device, `drop_arena` unmaps them; both take longer than a copy."""
        self._arena = arena
        self._new_arena = new_arena
        self._drop_arena = drop_arena

    def allocate(self, size_bytes: int, alignment: int = DEFAULT_ALIGNMENT) -> DmaBuffer:
        """A buffer of the arena, or with an arena of its own, which goes with it; errors as `DmaArena.allocate`."""
        try:
            return self._arena.allocate(size_bytes, alignment)
        except ArenaFullError as full:
            if size_bytes > MAX_BUFFER_BYTES:
                raise
            reason = str(full)
        try:
            arena = self._new_arena(size_bytes)
        except (ArenaFullError, BusError, ResourceError) as error:
            raise ArenaFullError(
                f"{reason}, and no memory for another: {error}; use smaller pieces, or let the arena have more from "
                "the start: DriverOptions(buffer_bytes=...)"
            ) from None
        return _LoneBuffer(arena, size_bytes, self._drop_arena)


class _LoneBuffer(DmaBuffer):
    """The only buffer of an arena."""

    __slots__ = ("_drop", "_whole")

    def __init__(self, arena: DmaArena, size_bytes: int, drop: Callable[[DmaArena], None]) -> None:
        """Its first bytes."""
        super().__init__(arena, 0, size_bytes)
        self._drop: Callable[[DmaArena], None] | None = drop
        self._whole = arena

    def release(self) -> None:
        """Give the arena back with it."""
        drop, self._drop = self._drop, None
        self._arena = None  # that it goes back as a whole saves its bookkeeping
        super().release()
        if drop is None:
            return
        try:
            drop(self._whole)
        except IhsmError as error:
            _log.debug("buffer not unmapped: %s", error)  # the device is gone, and its access with it
