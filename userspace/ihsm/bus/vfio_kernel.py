# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A PCI function through the kernel's VFIO: container, group, device (Documentation/driver-api/vfio.rst)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from struct import Struct
from typing import Final

from ihsm._native import ffi, lib
from ihsm.bus import vfio_abi
from ihsm.bus.function import check_access, octets_of
from ihsm.bus.holder import find_user
from ihsm.bus.vfio_abi import DmaFlags, Irq, IrqSetFlags, RegionInfo
from ihsm.bus.vfio_bind import VFIO_DEV, VfioBinding
from ihsm.bus.vfio_function import VfioFunction
from ihsm.errors import (
    HOW_TO_WAIT,
    ArenaFullError,
    BindError,
    BusError,
    ConnectionLostError,
    DeviceBusyError,
    InterruptsUnavailableError,
    RequestRefusedError,
)
from ihsm_abi.pci import PAGE_BYTES

# _IO(';', 100 + n) of <linux/vfio.h>: neither size nor direction is part of the number.
GET_API_VERSION: Final = 0x3B64
CHECK_EXTENSION: Final = 0x3B65
SET_IOMMU: Final = 0x3B66
GROUP_GET_STATUS: Final = 0x3B67
GROUP_SET_CONTAINER: Final = 0x3B68
GROUP_GET_DEVICE_FD: Final = 0x3B6A
DEVICE_GET_INFO: Final = 0x3B6B
DEVICE_GET_REGION_INFO: Final = 0x3B6C
DEVICE_GET_IRQ_INFO: Final = 0x3B6D
DEVICE_SET_IRQS: Final = 0x3B6E
DEVICE_RESET: Final = 0x3B6F
IOMMU_GET_INFO: Final = 0x3B70
IOMMU_MAP_DMA: Final = 0x3B71
IOMMU_UNMAP_DMA: Final = 0x3B72

_REQUESTS: Final = {
    number: name
    for name, number in list(globals().items())
    if isinstance(number, int) and name.isupper() and number >> 8 == ord(";")
}
"""Name of each request, for messages."""

API_VERSION: Final = 0
TYPE1_IOMMU: Final = 1
TYPE1V2_IOMMU: Final = 3
GROUP_VIABLE: Final = 1

GROUP_STATUS: Final = Struct("<II")
"""argsz, flags."""
MAP_DMA: Final = Struct("<IIQQQ")
"""argsz, flags, virtual address, I/O address, size."""
UNMAP_DMA: Final = Struct("<IIQQ")
"""argsz, flags, I/O address, size."""
IOMMU_INFO: Final = Struct("<IIQII")
"""argsz, flags, page sizes, cap_offset, padding."""
IOMMU_INFO_CAPS: Final = 1 << 1
IOMMU_CAP_IOVA_RANGE: Final = 1

MAP_PIECE_BYTES: Final = 1 << 20
"""Larger pieces make a guest's kernel unmap several small mappings in one message, which not every device model between
guest and device handles."""


class KernelVfioFunction(VfioFunction):
    """A function bound to vfio-pci, alone in its IOMMU group as far as this process is concerned."""

    def __init__(self, bdf: str) -> None:
        """Bind the function to vfio-pci if no driver has it, and open it.

        Args:
            bdf: PCI address with domain, like 0000:00:04.0.

        Raises:
            DeviceNotFoundError: no such function.
            DeviceBusyError: another process has it.
            BindError: it cannot be bound or its group cannot be used.
        """
        self._bdf = bdf
        # Before the rest, for a fork in another thread asks for them from then on.
        self._closing = contextlib.ExitStack()
        self._nodes: list[int] = []
        self._device: int | None = None
        super().__init__(f"pci:{bdf}")
        try:
            self._open()
        except BaseException:
            self._closing.close()
            raise

    def _open(self) -> None:
        binding = VfioBinding(self._bdf)
        self._closing.callback(binding.restore)
        self._container = self._open_node(VFIO_DEV / "vfio")
        if self._ioctl(self._container, GET_API_VERSION) != API_VERSION:
            raise BindError(f"{self.uri}: the kernel's VFIO has another API version than {API_VERSION}")
        group = self._open_node(binding.group_node)
        status = bytearray(GROUP_STATUS.pack(GROUP_STATUS.size, 0))
        self._ioctl(group, GROUP_GET_STATUS, status)
        if not GROUP_STATUS.unpack(status)[1] & GROUP_VIABLE:
            raise BindError(f"{self.uri}: another driver has a function of IOMMU group {binding.group}")
        self._ioctl(group, GROUP_SET_CONTAINER, bytearray(Struct("@i").pack(self._container)))
        self._set_iommu()
        self._iova_ranges = self._read_iova_ranges()
        name = bytearray(self._bdf.encode() + b"\0")
        self._device = int(self._ioctl(group, GROUP_GET_DEVICE_FD, name))
        self._keep(self._device)
        os.set_inheritable(self._device, False)
        info = bytearray(vfio_abi.DEVICE_INFO.pack(vfio_abi.DEVICE_INFO.size, 0, 0, 0))
        self._ioctl(self._device, DEVICE_GET_INFO, info)
        self._resettable = bool(vfio_abi.DEVICE_INFO.unpack(info)[1] & vfio_abi.DeviceFlags.RESET)
        self._learn_regions()
        irq = bytearray(vfio_abi.IRQ_INFO.pack(vfio_abi.IRQ_INFO.size, 0, Irq.MSIX, 0))
        self._ioctl(self._device, DEVICE_GET_IRQ_INFO, irq)
        self._vectors = vfio_abi.IRQ_INFO.unpack(irq)[3]

    def _set_iommu(self) -> None:
        kinds = (TYPE1V2_IOMMU, TYPE1_IOMMU)
        kind = next((kind for kind in kinds if self._ioctl(self._container, CHECK_EXTENSION, kind)), None)
        if kind is None:
            raise BindError(f"{self.uri}: the kernel offers no type 1 IOMMU (modprobe vfio_iommu_type1)")
        try:
            self._ioctl(self._container, SET_IOMMU, kind)
        except RequestRefusedError as error:
            if error.errno != errno.EPERM:
                raise
            # vfio_iommu_type1_attach_group: the kernel asks before it knows who will take interrupts.
            raise BindError(
                f"{self.uri}: this machine has no interrupt remapping, without which the kernel gives no device away, "
                "not even to those who --poll: start it with that (intremap=on), or, if the device may be trusted with "
                "interrupts of its own choice, modprobe vfio_iommu_type1 allow_unsafe_interrupts=1"
            ) from None

    def _open_node(self, path: os.PathLike[str]) -> int:
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                user = find_user(Path(path))
                raise DeviceBusyError(f"{self.uri} is in use by {user}; {HOW_TO_WAIT}") from None
            raise BindError(f"{self.uri}: {path}: {error.strerror}") from None
        self._keep(fd)
        return fd

    def _keep(self, fd: int) -> None:
        self._nodes.append(fd)
        self._closing.callback(os.close, fd)

    def _let_go(self) -> None:
        # The callbacks would also unbind the function, which the parent has.
        self._closing = contextlib.ExitStack()
        self._device = None
        nodes, self._nodes = self._nodes, []
        for fd in nodes:
            os.close(fd)

    def _ioctl(self, fd: int, number: int, argument: bytearray | int = 0) -> int:
        """One request to VFIO: every one of them goes through here, so that a refusal has a type."""
        name = _REQUESTS.get(number, f"request {number:#x}")
        self._require_ours(f"VFIO {name}")
        try:
            return int(fcntl.ioctl(fd, number, argument))
        except OSError as error:
            raise RequestRefusedError(f"{self.uri}: VFIO {name}", error.errno or 0) from None

    def _sized(self, fd: int, number: int, first: bytes) -> bytes:
        """Answer of a request whose first field says how long it is, asked again if it is longer than `first`."""
        answer = bytearray(first)
        self._ioctl(fd, number, answer)
        needed = int.from_bytes(answer[:4], "little")
        if needed > len(answer):
            answer = bytearray(needed.to_bytes(4, "little") + first[4:].ljust(needed - 4, b"\0"))
            self._ioctl(fd, number, answer)
        return bytes(answer)

    def _region_info(self, region: int) -> RegionInfo:
        request = vfio_abi.REGION_INFO.pack(vfio_abi.REGION_INFO.size, 0, region, 0, 0, 0)
        try:
            return vfio_abi.parse_region_info(self._sized(self._fd, DEVICE_GET_REGION_INFO, request), region)
        except RequestRefusedError:
            return RegionInfo(region, vfio_abi.RegionFlags(0), 0, 0, ())

    def _read_iova_ranges(self) -> list[tuple[int, int]]:
        answer = self._sized(self._container, IOMMU_GET_INFO, IOMMU_INFO.pack(IOMMU_INFO.size, 0, 0, 0, 0))
        _, flags, _, cap_offset, _ = IOMMU_INFO.unpack_from(answer)
        if flags & IOMMU_INFO_CAPS:
            for identifier, offset in vfio_abi.capability_chain(answer, cap_offset):
                if identifier == IOMMU_CAP_IOVA_RANGE:
                    count = vfio_abi.SPARSE_HEADER.unpack_from(answer, offset)[3]
                    start = offset + vfio_abi.SPARSE_HEADER.size
                    return [vfio_abi.AREA.unpack_from(answer, start + n * vfio_abi.AREA.size) for n in range(count)]
        return [(0, (1 << 39) - 1)]

    @property
    def _fd(self) -> int:
        if self._device is None:
            self._require_ours("access")
            raise ConnectionLostError(f"{self.uri}: the function is closed")
        return self._device

    @property
    def bdf(self) -> str:
        """PCI address."""
        return self._bdf

    def read_bar(self, bar: int, offset: int, width: int) -> int:
        """One load from the mapped BAR, or one read of the device file."""
        mapping = self._mapping_for(bar, offset, width)
        if mapping is None:
            return super().read_bar(bar, offset, width)
        return int(lib.ihsm_mmio_read(ffi.from_buffer(mapping), offset, width))

    def write_bar(self, bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        """One store, which is always posted, or one write of the device file."""
        mapping = self._mapping_for(bar, offset, width)
        if mapping is None:
            super().write_bar(bar, offset, width, value, posted=posted)
        else:
            octets_of(value, width, f"BAR{bar}")
            lib.ihsm_mmio_write(ffi.from_buffer(mapping, require_writable=True), offset, width, value)

    def _mapping_for(self, bar: int, offset: int, width: int) -> mmap.mmap | None:
        """The mapped BAR if one load or store in it does the access."""
        check_access(self._bar(bar).size, offset, width, f"BAR{bar}")
        return self.map_bar(bar) if offset % width == 0 else None

    def _read(self, region: int, offset: int, count: int) -> bytes:
        fd = self._fd
        try:
            data = os.pread(fd, count, self._regions[region].offset + offset)
        except OSError as error:
            raise RequestRefusedError(f"{self.uri}: read of region {region}", error.errno or 0) from None
        if len(data) != count:
            raise BusError(f"{self.uri}: {len(data)} of {count} bytes read at {offset:#x} of region {region}")
        return data

    def _write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        fd = self._fd
        try:
            written = os.pwrite(fd, data, self._regions[region].offset + offset)
        except OSError as error:
            raise RequestRefusedError(f"{self.uri}: write of region {region}", error.errno or 0) from None
        if written != len(data):
            raise BusError(f"{self.uri}: {written} of {len(data)} bytes written at {offset:#x} of region {region}")

    def _map(self, info: RegionInfo) -> mmap.mmap:
        fd = self._fd
        try:
            return mmap.mmap(fd, info.size, offset=info.offset)
        except (OSError, ValueError, OverflowError) as error:
            raise BusError(f"{self.uri}: region {info.region} cannot be mapped: {error}") from None

    def write_event(self, bar: int) -> int | None:
        """None: a store reaches the device by itself."""
        return None

    def _map_memory(self, size_bytes: int) -> tuple[mmap.mmap, int, Callable[[], None]]:
        """Anonymous shared memory, pinned and mapped in pieces of at most 1 MiB."""
        try:
            memory = mmap.mmap(-1, size_bytes)
        except OSError as error:
            raise ArenaFullError(f"{self.uri}: {size_bytes} bytes of DMA memory: {error.strerror}") from None
        iova = self._reserve_iova(size_bytes)
        pieces = [(start, min(MAP_PIECE_BYTES, size_bytes - start)) for start in range(0, size_bytes, MAP_PIECE_BYTES)]
        mapped: list[tuple[int, int]] = []
        address = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
        try:
            for start, size in pieces:
                flags = DmaFlags.READ | DmaFlags.WRITE
                request = MAP_DMA.pack(MAP_DMA.size, flags, address + start, iova + start, size)
                self._ioctl(self._container, IOMMU_MAP_DMA, bytearray(request))
                mapped.append((iova + start, size))
        except RequestRefusedError as error:
            self._unmap(mapped)
            raise ArenaFullError(
                f"{size_bytes} bytes of DMA memory: {error}; is the locked-memory limit too low?"
            ) from None
        return memory, iova, lambda: self._unmap(mapped)

    def _reserve_iova(self, size_bytes: int) -> int:
        with self._lock:
            for low, high in self._iova_ranges:
                start = -(-max(low, self._next_iova) // PAGE_BYTES) * PAGE_BYTES
                if start + size_bytes - 1 <= high:
                    self._next_iova = start + size_bytes
                    return start
        raise ArenaFullError(f"{self.uri}: no I/O address left for {size_bytes} bytes")

    def _unmap(self, mapped: Sequence[tuple[int, int]]) -> None:
        for iova, size in mapped:
            request = UNMAP_DMA.pack(UNMAP_DMA.size, 0, iova, size)
            self._ioctl(self._container, IOMMU_UNMAP_DMA, bytearray(request))

    def _signal(self, events: Sequence[int | None]) -> None:
        """All eventfds at once: before Linux 6.5 no vector can be added while others are enabled."""
        if events:
            fds = Struct(f"@{len(events)}i").pack(*(-1 if event is None else event for event in events))
            try:
                self._set_irqs(IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER, len(events), fds)
            except RequestRefusedError as error:
                # A kernel without MSI (pci=nomsi), or one that has too few vectors left.
                reason = f"the kernel does not set up MSI-X: {os.strerror(error.errno or 0)}"
                raise InterruptsUnavailableError(self.uri, reason) from None

    def disable_interrupts(self) -> None:
        """Take all eventfds back."""
        self._require_ours("interrupts")
        if self._vectors:
            with contextlib.suppress(RequestRefusedError):  # EINVAL: none was enabled
                self._set_irqs(IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_TRIGGER, 0, b"")

    def _set_irqs(self, flags: IrqSetFlags, count: int, data: bytes) -> None:
        size = vfio_abi.IRQ_SET.size + len(data)
        self._ioctl(self._fd, DEVICE_SET_IRQS, bytearray(vfio_abi.IRQ_SET.pack(size, flags, Irq.MSIX, 0, count) + data))

    def reset(self) -> None:
        """Function reset by the kernel: FLR."""
        self._require_ours("reset")
        if not self._resettable:
            raise BusError(f"{self.uri}: the kernel knows no way to reset this function")
        self._ioctl(self._fd, DEVICE_RESET)

    def close(self) -> None:
        """Unmap, close, and give the function back if it was bound here."""
        self._close_memory()
        self._device = None
        self._nodes = []
        self._closing.close()
