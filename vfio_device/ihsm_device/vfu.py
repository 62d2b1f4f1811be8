# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""libvfio-user for Python: a PCI device that another process, such as QEMU, uses over a socket.

A `Context` is one device for one client at a time. It is set up (ids, capabilities, regions, interrupts, callbacks),
realised, and then run by one thread, its owner; every callback runs on that thread. `docs/examples` holds a whole
device of some forty lines. The protocol is described by libvfio-user's vfio-user.rst.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import select
import weakref
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Final

from ihsm_abi.pci_config import (
    CAPABILITY_REGISTERS,
    CONFIG_SPACE_BYTES,
    EXTENDED_REGISTERS,
    HEADER_REGISTERS,
    ConfigRegister,
    ExtendedHeader,
    bar_register,
)
from ihsm_device import _native
from ihsm_device._native import ffi, lib
from ihsm_device.client_process import EVERYBODY, ClientProcess
from ihsm_device.library_log import LEFT, LibraryLog, LogCallback, syslog_level
from ihsm_device.limits import Limits
from ihsm_device.memory_files import file_system

_log = logging.getLogger(__name__)

MSIX_IRQ: Final = 2
"""Interrupt index of MSI-X in the protocol, as in the kernel's vfio.h."""

MAX_REFUSALS_TOLD: Final = 8
"""Files of one client that the log tells of when they cannot be memory."""

ReadCallback = Callable[[int, int], bytes]
WriteCallback = Callable[[int, bytes], None]


def holes_are_watched() -> bool:
    """Whether the kernel tells of holes in clients' files, so that the bytes filled can be limited."""
    return int(lib.ihsm_vfu_watches_holes()) == 0


class ResetType(IntEnum):
    """Why a device is reset (`vfu_reset_type_t`)."""

    DEVICE = 0
    LOST_CONNECTION = 1
    FUNCTION_LEVEL = 2


class RunResult(IntEnum):
    """Why `Context.run` returned."""

    TIMEOUT = lib.IHSM_VFU_TIMEOUT
    STOPPED = lib.IHSM_VFU_STOPPED
    DISCONNECTED = lib.IHSM_VFU_DISCONNECTED
    INTERRUPTED = lib.IHSM_VFU_INTERRUPTED


@dataclass(frozen=True, slots=True)
class DmaRegion:
    """A range of guest addresses the client has mapped for the device, or removes."""

    iova: int
    size_bytes: int
    has_pointer: bool
    """False: the client shares no memory behind it (a ROM, a BAR, RAM without a file)."""
    file: tuple[int, int] | None = None
    """Device number and inode of the file that was mapped; None when it goes."""


DmaCallback = Callable[[DmaRegion], None]

_contexts: weakref.WeakValueDictionary[int, Context] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)


class Context:
    """A PCI Express device behind a vfio-user socket."""

    def __init__(
        self,
        path: str,
        *,
        log: LogCallback | None = None,
        level: int = logging.WARNING,
        uids: Container[int] = EVERYBODY,
        limits: Limits | None = None,
    ) -> None:
        """Bind and listen at `path`, which must not exist; clients are accepted by `attach`.

        `log` receives the library's messages of at least Python log level `level`; by default they go to this
        module's logger. Clients are of one of the users `uids` and have no more than `limits` says (None: what they
        like).

        Raises:
            OSError: the socket cannot be made (ENAMETOOLONG, EADDRINUSE, EACCES, ...).
        """
        self._log = log if log is not None else _log.log
        self._library = LibraryLog(self._log)
        self._reads: dict[int, ReadCallback] = {}
        self._writes: dict[int, WriteCallback] = {}
        self._reset: Callable[[ResetType], None] | None = None
        self._interface_failed: Callable[[], None] = lambda: None
        self._on_map: DmaCallback | None = None
        self._on_unmap: DmaCallback | None = None
        self._uids = uids
        self._attached = False
        self._registers: list[tuple[int, ConfigRegister]] = [(0, register) for register in HEADER_REGISTERS]
        """What clients can write in configuration space: registers, and the offsets of what they are part of."""
        self._client: ClientProcess | None = None
        self._number = next(_numbers)
        _contexts[self._number] = self
        self._refused: set[str] = set()
        self._limits = limits
        self._limits_told: set[int] = set()
        _check(lib.ihsm_vfu_prepare(), "asynchronous I/O (io_setup; is fs.aio-max-nr used up?)")
        out = ffi.new("struct ihsm_vfu **")
        _check(lib.ihsm_vfu_new(os.fsencode(path), self._number, syslog_level(level), out), path)
        self._handle: _native.Pointer[_native.ihsm_vfu] | None = out[0]
        if limits is not None:
            lib.ihsm_vfu_set_limits(self._handle, ffi.new("struct ihsm_vfu_limits *", limits.of_memory()))

    @property
    def handle(self) -> _native.Pointer[_native.ihsm_vfu]:
        """What C knows the context by.

        Raises:
            ValueError: it is closed.
        """
        if self._handle is None:
            raise ValueError("the context is closed")
        return self._handle

    def set_ids(self, vendor: int, device: int, subsystem_vendor: int, subsystem: int) -> None:
        """Vendor, device and subsystem ids of configuration space."""
        _check(lib.ihsm_vfu_set_ids(self.handle, vendor, device, subsystem_vendor, subsystem), "ids")

    def set_class(self, class_code: int, revision: int = 0) -> None:
        """24-bit class code (base, sub-class, programming interface) and revision."""
        base, sub, interface = class_code.to_bytes(3, "big")
        _check(lib.ihsm_vfu_set_class(self.handle, base, sub, interface, revision), "class")

    def add_capability(
        self, data: bytes, position: int = 0, *, extended: bool = False, registers: Sequence[ConfigRegister] = ()
    ) -> int:
        """Add a capability, header included, its next pointer is filled in; returns its offset in config space.

        `position` 0 lets the library choose. Known to the library are power management, PCI Express, MSI-X and
        vendor-specific; among extended ones device serial number and vendor-specific. `registers` says what a client
        can write in a vendor-specific one; the others follow the standard (`CAPABILITY_REGISTERS`).
        """
        buffer = ffi.new("uint8_t[]", data)
        offset = _check(lib.ihsm_vfu_add_capability(self.handle, buffer, position, extended), "capability")
        known = () if extended else CAPABILITY_REGISTERS.get(data[0], ())
        self._registers += [(offset, register) for register in (*known, *registers)]
        return offset

    def place_capability(self, data: bytes, position: int) -> None:
        """Put an extended capability that the library does not know behind those there are, header included.

        What a client can write in it follows the standard (`EXTENDED_REGISTERS`).
        """
        buffer = ffi.new("uint8_t[]", data)
        _check(lib.ihsm_vfu_place_capability(self.handle, buffer, len(data), position), "extended capability")
        identifier = ExtendedHeader(int.from_bytes(data[:4], "little")).id
        self._registers += [(position, register) for register in EXTENDED_REGISTERS.get(identifier, ())]

    def mailbox(self, handle: _native.Pointer[_native.ihsm_doe], position: int) -> None:
        """Let a mailbox for data objects, which outlives the context, have the capability placed at `position`."""
        lib.ihsm_vfu_set_mailbox(self.handle, handle, position)

    def interface(self, handle: _native.Pointer[_native.ihsm_tdi], position: int, failed: Callable[[], None]) -> None:
        """Let an interface of trusted I/O, which outlives the context, follow configuration space.

        The capability of its streams has been placed at `position`. `failed` is called when a write has put it into
        the state ERROR.
        """
        self._interface_failed = failed
        lib.ihsm_vfu_set_interface(self.handle, handle, position)

    def region(
        self,
        index: int,
        size_bytes: int,
        *,
        read: ReadCallback | None = None,
        write: WriteCallback | None = None,
        mmap_fd: int | None = None,
        bits64: bool = True,
    ) -> None:
        """Set up memory BAR `index` (0 to 5; a 64-bit one takes the next index too).

        `read(offset, size) -> bytes` and `write(offset, data)` serve accesses; without them reads give zeros and
        writes are ignored. With `mmap_fd` the client may map that file instead of sending accesses.
        """
        self._reads[index] = read if read is not None else lambda offset, size: bytes(size)
        self._writes[index] = write if write is not None else lambda offset, data: None
        self._set_region(index, size_bytes, lib.IHSM_VFU_PYTHON, mmap_fd, bits64=bits64)

    def native_region(self, index: int, size_bytes: int, access: int, *, mmap_fd: int | None = None) -> None:
        """Set up 64-bit memory BAR `index` served by C code of this package (`enum ihsm_vfu_access`)."""
        self._set_region(index, size_bytes, access, mmap_fd, bits64=True)

    def _set_region(self, index: int, size_bytes: int, access: int, mmap_fd: int | None, *, bits64: bool) -> None:
        fd = -1 if mmap_fd is None else mmap_fd
        _check(lib.ihsm_vfu_region(self.handle, index, size_bytes, access, fd, bits64), f"BAR{index}")
        self._registers.append((0, bar_register(index, size_bytes, bits64=bits64)))

    def io_event(self, index: int, fd: int, size_bytes: int) -> None:
        """Offer an eventfd that the client may write to for accesses to the first bytes of BAR `index`."""
        _check(lib.ihsm_vfu_io_fd(self.handle, index, fd, size_bytes), f"event of BAR{index}")

    def irqs(self, count: int, index: int = MSIX_IRQ) -> None:
        """Number of interrupts of a kind, MSI-X by default; the capability itself is added like any other."""
        _check(lib.ihsm_vfu_irqs(self.handle, index, count), "interrupts")

    def on_reset(self, callback: Callable[[ResetType], None]) -> None:
        """Call `callback` when the client resets the device or is lost; its memory may be gone already."""
        self._reset = callback

    def on_dma(self, mapped: DmaCallback | None = None, unmapped: DmaCallback | None = None) -> None:
        """Call back after memory was mapped, and after it was removed from the device's reach."""
        self._on_map, self._on_unmap = mapped, unmapped

    def realize(self) -> None:
        """End the set-up; the device can be attached to from now on.

        What configuration space holds now is its state at power-on, which every reset and loss of a client restores.
        """
        writable, clearable = bytearray(CONFIG_SPACE_BYTES), bytearray(CONFIG_SPACE_BYTES)
        for base, register in self._registers:
            place = slice(base + register.offset, base + register.offset + register.width)
            writable[place] = register.writable.to_bytes(register.width, "little")
            clearable[place] = register.clearable.to_bytes(register.width, "little")
        _check(lib.ihsm_vfu_realize(self.handle, bytes(writable), bytes(clearable)), "device")

    @property
    def config_space(self) -> memoryview:
        """The 4096 bytes of configuration space, live and writable."""
        return memoryview(ffi.buffer(lib.ihsm_vfu_config_space(self.handle), CONFIG_SPACE_BYTES))

    def attach(self, stop_fd: int | None = None, timeout_s: float | None = None) -> bool:
        """Wait for a client; True if one is connected, False after `timeout_s` or if `stop_fd` became readable.

        A client that leaves or sends garbage instead of the protocol's greeting is forgotten.
        """
        poller = select.poll()
        if stop_fd is not None:
            poller.register(stop_fd, select.POLLIN)
        if self._attached:
            return not poller.poll(0)
        poller.register(lib.ihsm_vfu_poll_fd(self.handle), select.POLLIN)
        while not self._attached:
            ready = poller.poll(None if timeout_s is None else timeout_s * 1000)
            if not ready or any(fd == stop_fd for fd, _ in ready):
                return False
            result = self._library.attached(lambda: int(lib.ihsm_vfu_attach(self.handle)))
            if result == 0:
                self._attached = True
                self._refused.clear()
                self._limits_told.clear()
                self._client = ClientProcess.of(lib.ihsm_vfu_poll_fd(self.handle))
                if self._client.uid not in self._uids:
                    self._log(logging.WARNING, f"client refused: user {self._client.uid} may not use the device")
                    self._client.hang_up()
                    self.run(timeout_s=0)
            elif result in (-errno.EMFILE, -errno.ENFILE, -errno.ENOMEM):
                raise OSError(-result, os.strerror(-result))
            else:
                what = "gone before it was attached" if -result in LEFT else "refused"
                self._log(logging.INFO, f"client {what}: {os.strerror(-result)}")
        return True

    def run(self, stop_fd: int | None = None, timeout_s: float | None = None) -> RunResult:
        """Serve the attached client until it goes, `stop_fd` becomes readable, or nothing came for `timeout_s`.

        Waits and works in C; the interpreter lock is taken for callbacks only. Signal handlers run in between.
        """
        timeout_ms = -1 if timeout_s is None else int(timeout_s * 1000)
        while True:
            result = lib.ihsm_vfu_run(self.handle, -1 if stop_fd is None else stop_fd, timeout_ms)
            if result < 0:
                self._detached()
                raise OSError(-result, os.strerror(-result))
            if result == RunResult.INTERRUPTED:
                continue
            if result == RunResult.DISCONNECTED:
                self._detached()
            return RunResult(result)

    @property
    def client(self) -> ClientProcess | None:
        """The process that is attached; any thread."""
        return self._client

    def _detached(self) -> None:
        self._attached = False
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def trigger(self, vector: int) -> None:
        """Raise an MSI-X vector; any thread. Dropped if the client gave it no eventfd."""
        _check(lib.ihsm_vfu_trigger(self.handle, vector), f"vector {vector}")

    def dma_read(self, iova: int, size_bytes: int) -> bytes:
        """Read guest memory; any thread.

        Raises:
            OSError: EFAULT if not all of it is mapped and shared.
        """
        data = ffi.new("uint8_t[]", size_bytes)
        _check(lib.ihsm_vfu_dma_read(self.handle, iova, data, size_bytes), f"guest memory at {iova:#x}")
        return bytes(ffi.buffer(data, size_bytes))

    def dma_write(self, iova: int, data: bytes) -> None:
        """Write guest memory; any thread.

        Raises:
            OSError: EFAULT if not all of it is mapped, shared and writable; a part may have been written.
        """
        _check(lib.ihsm_vfu_dma_write(self.handle, iova, data, len(data)), f"guest memory at {iova:#x}")

    def close(self) -> None:
        """Drop the client and stop listening (the socket file stays). Nobody may be in another method."""
        if self._handle is not None:
            self._detached()
            handle, self._handle = self._handle, None
            lib.ihsm_vfu_free(handle)
            # An engine on this context is kept by its callbacks and keeps the context until it is freed.
            self._reads.clear()
            self._writes.clear()
            self._reset = self._on_map = self._on_unmap = None
            self._interface_failed = lambda: None

    def _access(self, index: int, data: _native.buffer, offset: int, is_write: bool) -> int:
        if is_write:
            self._writes[index](offset, bytes(data))
        else:
            answer = self._reads[index](offset, len(data))
            if len(answer) != len(data):
                raise ValueError(f"BAR{index} read of {len(data)} bytes at {offset:#x} gave {len(answer)} bytes")
            data[:] = answer
        return len(data)

    def _refuse_memory(self, iova: int, size_bytes: int, fd: int, device: tuple[int, int]) -> None:
        """One line for each file that a client tries; the region is there, without a pointer."""
        name = file_system(fd, device)
        if name not in self._refused and len(self._refused) < MAX_REFUSALS_TOLD:
            self._refused.add(name)
            self._log(
                logging.ERROR,
                f"guest memory at {iova:#x} ({size_bytes} bytes) is a file of {name}, not used: its pages may never "
                "come; give QEMU memory of memfd, tmpfs or hugetlbfs "
                "(-object memory-backend-memfd,id=m,size=...,share=on -machine memory-backend=m)",
            )

    def _at_limit(self, limit: int) -> None:
        """One line for each limit that a client comes to; what it asked for fails with ENOSPC."""
        if self._limits is not None and limit not in self._limits_told:
            self._limits_told.add(limit)
            self._log(logging.WARNING, f"DMA_MAP refused: {self._limits.memory_texts()[limit]}")

    def usage(self) -> dict[str, int]:
        """What the client has of what is limited: regions, bytes mapped, bytes of holes filled; any thread."""
        usage = ffi.new("struct ihsm_vfu_usage *")
        lib.ihsm_vfu_usage(self.handle, usage)
        return {
            "regions": int(usage.regions),
            "mapped_bytes": int(usage.mapped_bytes),
            "filled_bytes": int(usage.filled_bytes),
        }

    def _dma(self, mapped: bool, region: DmaRegion) -> None:
        callback = self._on_map if mapped else self._on_unmap
        if callback is not None:
            callback(region)


def _failed(kind: type[BaseException], error: BaseException, trace: TracebackType) -> None:
    """An exception in a callback: the access or reset fails, the device goes on."""
    _log.error("callback failed", exc_info=(kind, error, trace))


def _on_access(
    number: int, index: int, data: _native.Pointer[_native.c_char], count: int, offset: int, is_write: bool
) -> int:
    context = _contexts.get(number)
    return -1 if context is None else context._access(index, ffi.buffer(data, count), offset, is_write)


ffi.def_extern(name="ihsm_py_region_access", error=-1, onerror=_failed)(_on_access)


def _on_reset(number: int, kind: int) -> int:
    context = _contexts.get(number)
    if context is not None and context._reset is not None:
        context._reset(ResetType(kind))
    return 0


ffi.def_extern(name="ihsm_py_reset", error=-1, onerror=_failed)(_on_reset)


def _on_interface_failed(number: int) -> None:
    context = _contexts.get(number)
    if context is not None:
        context._interface_failed()


ffi.def_extern(name="ihsm_py_interface_failed", onerror=_failed)(_on_interface_failed)


def _on_dma(number: int, mapped: bool, iova: int, size: int, has_pointer: bool, device: int, inode: int) -> None:
    context = _contexts.get(number)
    if context is not None:
        file = (device, inode) if mapped and has_pointer else None
        context._dma(mapped, DmaRegion(iova, size, has_pointer, file))


ffi.def_extern(name="ihsm_py_dma", onerror=_failed)(_on_dma)


def _on_refused_memory(number: int, iova: int, size: int, fd: int, major: int, minor: int) -> None:
    context = _contexts.get(number)
    if context is not None:
        context._refuse_memory(iova, size, fd, (major, minor))


ffi.def_extern(name="ihsm_py_refused_memory", onerror=_failed)(_on_refused_memory)


def _on_at_limit(number: int, limit: int) -> None:
    context = _contexts.get(number)
    if context is not None:
        context._at_limit(limit)


ffi.def_extern(name="ihsm_py_at_limit", onerror=_failed)(_on_at_limit)


def _on_log(number: int, level: int, message: _native.ConstPointer[_native.c_char]) -> None:
    context = _contexts.get(number)
    if context is not None:
        context._library.say(level, ffi.string(message).decode(errors="replace"))


ffi.def_extern(name="ihsm_py_log", onerror=_failed)(_on_log)


def _check(result: int, what: str) -> int:
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result
