# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Where a function's guest memory and interrupts come from: a vfio-user client, or buffers of this process."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from typing import Protocol

from ihsm_abi.pci import BAR_BYTES, Bar
from ihsm_device import _native, vfu
from ihsm_device._native import ffi, lib
from ihsm_device.lifetimes import free_with


class DoorbellTarget(Protocol):
    """What a host needs of the engine it serves."""

    @property
    def handle(self) -> _native.Pointer[_native.ihsm_engine]:
        """What C knows the engine by."""

    @property
    def page_fd(self) -> int | None:
        """The doorbell page as a file, None if doorbells arrive as accesses."""

    @property
    def kick_fd(self) -> int:
        """Eventfd that wakes the poller of the page."""


class MappingError(Exception):
    """Guest memory that is mapped already, or is not."""


class Host(Protocol):
    """Guest memory and interrupt vectors of a function, and the mutex that orders its registers."""

    @property
    def handle(self) -> _native.Pointer[_native.ihsm_host]:
        """What C knows the host by."""

    def attach(self, engine: DoorbellTarget) -> None:
        """Let the engine serve this host's BAR2 and BAR4, where the host has them."""

    def detach(self) -> None:
        """The engine is about to go."""


class LoopbackHost:
    """A host inside the process: guest memory is buffers given by the caller, vectors are counted."""

    def __init__(self) -> None:
        """Without memory and with every vector listened to."""
        self.handle = lib.ihsm_loopback_new()
        if self.handle == ffi.NULL:
            raise MemoryError
        self._buffers: dict[tuple[int, int], _native.Array[_native.uint8_t]] = {}
        free_with(self, lib.ihsm_loopback_free, self.handle)

    def attach(self, engine: DoorbellTarget) -> None:
        """There are no BARs here: tests call the engine's methods."""

    def detach(self) -> None:
        """Nothing to forget."""

    def map(self, iova: int, buffer: _native.Buffer, *, writable: bool = True) -> None:
        """Map a contiguous buffer (numpy array, bytearray, mmap) at guest address `iova`; it must not be resized.

        Raises:
            MappingError: it overlaps mapped memory.
            ValueError: it is empty, or leaves the address space.
        """
        memory = ffi.from_buffer("uint8_t[]", buffer, require_writable=True)
        _check(lib.ihsm_loopback_map(self.handle, iova, len(memory), memory, writable), iova)
        self._buffers[iova, len(memory)] = memory

    def map_without_pointer(self, iova: int, size: int) -> None:
        """Announce memory of which the client gave no pointer."""
        _check(lib.ihsm_loopback_map(self.handle, iova, size, ffi.NULL, True), iova)

    def unmap(self, iova: int, size: int) -> None:
        """Remove exactly one mapping; nobody touches its buffer after the return.

        Raises:
            MappingError: there is no such mapping.
        """
        _check(lib.ihsm_loopback_unmap(self.handle, iova, size), iova)
        self._buffers.pop((iova, size), None)

    def set_eventfd(self, vector: int, fd: int | None) -> None:
        """Write 1 to `fd` for every interrupt of `vector`; after the return the old descriptor is not used again."""
        _check(lib.ihsm_loopback_set_eventfd(self.handle, vector, -1 if fd is None else fd), vector)

    def interrupts(self, vector: int) -> int:
        """How often `vector` was raised."""
        return int(lib.ihsm_loopback_interrupts(self.handle, vector))


class VfuHost:
    """A vfio-user client as host: its mappings are the memory, its eventfds the vectors."""

    def __init__(self, context: vfu.Context, wrong_sizes: Mapping[Bar, int] | None = None) -> None:
        """`context` must not be realised yet; of the BARs in `wrong_sizes` the client is told other sizes, in bytes."""
        self._context = context
        self._sizes = {**dict.fromkeys(Bar, BAR_BYTES), **(wrong_sizes or {})}
        self.handle = lib.ihsm_vfu_host(context.handle)

    def attach(self, engine: DoorbellTarget) -> None:
        """BAR2 rings the engine's doorbells, BAR4 is its MSI-X table, both without entering Python."""
        lib.ihsm_vfu_set_engine(self._context.handle, engine.handle)
        doorbells, msix = self._sizes[Bar.DOORBELLS], self._sizes[Bar.MSIX]
        # The page is one page: of another size the BAR cannot be mapped, and doorbells come as accesses.
        page_fd = engine.page_fd if doorbells == BAR_BYTES else None
        if doorbells:
            self._context.native_region(Bar.DOORBELLS, doorbells, lib.IHSM_VFU_DOORBELLS, mmap_fd=page_fd)
        if msix:
            self._context.native_region(Bar.MSIX, msix, lib.IHSM_VFU_MSIX)
        if page_fd is not None:
            self._context.io_event(Bar.DOORBELLS, engine.kick_fd, BAR_BYTES)

    def detach(self) -> None:
        """Doorbells that still arrive ring nothing."""
        lib.ihsm_vfu_set_engine(self._context.handle, ffi.NULL)


def _check(result: int, iova: int) -> None:
    """Raise the exception that fits a negative errno."""
    match -result:
        case 0:
            return
        case errno.EINVAL:
            raise ValueError(f"{iova:#x}: no such mapping or vector can exist")
        case errno.EEXIST:
            raise MappingError(f"{iova:#x} overlaps memory that exists already")
        case errno.ENOENT:
            raise MappingError(f"a mapping at {iova:#x} of that size does not exist")
        case code:
            raise OSError(code, os.strerror(code))
