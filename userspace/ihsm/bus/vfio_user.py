# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A PCI function behind a vfio-user socket."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Callable, Sequence
from typing import Final

from ihsm.arguments import checked, integer
from ihsm.bus import vfio_abi, vfio_user_wire
from ihsm.bus.holder import find_prohibition
from ihsm.bus.vfio_abi import DmaFlags, Irq, IrqSetFlags, Region, RegionInfo
from ihsm.bus.vfio_function import VfioFunction
from ihsm.bus.vfio_user_wire import DEFAULT_TIMEOUT_S, Command, Connection, Reply, socket_path
from ihsm.errors import (
    ArenaFullError,
    BusError,
    ConnectionLostError,
    DeviceForbiddenError,
    ProtocolError,
    RequestRefusedError,
)
from ihsm_abi.pci import PAGE_BYTES

MAX_VECTORS: Final = 2048
"""What a PCI function can have at most; a bound on what a server may claim."""
ALLOWED_REGIONS: Final = 32


class VfioUserFunction(VfioFunction):
    """Client of a vfio-user server that offers one PCI function."""

    def __init__(
        self, path: str | os.PathLike[str], *, timeout_s: float = DEFAULT_TIMEOUT_S, wait_s: float = 0.0
    ) -> None:
        """Connect to the socket `path`, negotiate, and ask for the device's regions and interrupts.

        Args:
            path: socket of the server.
            timeout_s: longest wait for an answer, in seconds.
            wait_s: how long to wait for a function that another client has, in seconds.

        Raises:
            DeviceNotFoundError: nobody listens there.
            DeviceForbiddenError: there is a device, which this user may not use.
            DeviceBusyError: another client has the function, and keeps it for `wait_s` seconds.
            BusError: the server's answers are not those of a PCI function.
        """
        name = socket_path(path)
        # First, for a fork in another thread asks for them from then on.
        self._events: dict[int, int | None] = {}
        self._region_fds: dict[int, int] = {}
        super().__init__(f"vfio-user:{name}")
        try:
            self._connection = Connection(name, timeout_s, wait_s)
            try:
                self._describe()
            except BaseException:
                self.close()
                raise
        except ConnectionLostError:
            # How the protocol's server refuses a user; the socket beside it has words for that.
            if (why := find_prohibition(name)) is not None:
                raise DeviceForbiddenError(f"{name}: {why}") from None
            raise

    def _describe(self) -> None:
        request = vfio_abi.DEVICE_INFO.pack(vfio_abi.DEVICE_INFO.size, 0, 0, 0)
        reply = self._ask(Command.DEVICE_GET_INFO, request, vfio_abi.DEVICE_INFO.size)
        _, flags, regions, irqs = vfio_abi.DEVICE_INFO.unpack_from(reply)
        if not flags & vfio_abi.DeviceFlags.PCI:
            raise ProtocolError(f"{self.uri}: device flags {flags:#x} say that this is no PCI device")
        if not Region.CONFIG < regions <= ALLOWED_REGIONS or irqs <= Irq.MSIX:
            raise ProtocolError(f"{self.uri}: {regions} regions and {irqs} interrupt types are not those of PCI")
        self._learn_regions()
        request = vfio_abi.IRQ_INFO.pack(vfio_abi.IRQ_INFO.size, 0, Irq.MSIX, 0)
        reply = self._ask(Command.DEVICE_GET_IRQ_INFO, request, vfio_abi.IRQ_INFO.size)
        _, _, index, count = vfio_abi.IRQ_INFO.unpack_from(reply)
        if index != Irq.MSIX or count > MAX_VECTORS:
            raise ProtocolError(f"{self.uri}: {count} vectors of interrupt type {index}, at most {MAX_VECTORS} MSI-X")
        self._vectors = count

    def _region_info(self, region: int) -> RegionInfo:
        size = vfio_abi.REGION_INFO.size
        while True:
            request = vfio_abi.REGION_INFO.pack(size, 0, region, 0, 0, 0)
            reply = self._connection.request(
                Command.DEVICE_GET_REGION_INFO, request, reply_bytes=vfio_abi.REGION_INFO.size, what=f"region {region}"
            )
            needed = vfio_abi.REGION_INFO.unpack_from(reply.payload)[0]
            if needed <= size:
                info = self._keep_region_fd(region, reply)
                return info
            _close(reply.fds)
            if needed > PAGE_BYTES:
                raise ProtocolError(f"{self.uri}: info of region {region} needs {needed} bytes, {PAGE_BYTES} accepted")
            size = needed

    def _keep_region_fd(self, region: int, reply: Reply) -> RegionInfo:
        fds = reply.fds
        try:
            info = vfio_abi.parse_region_info(reply.payload, region)
            if info.areas and fds:
                self._region_fds[region] = fds[0]
                fds = fds[1:]
            elif info.areas:
                info = info._replace(areas=())
            return info
        finally:
            _close(fds)

    def _ask(self, command: Command, request: bytes, reply_bytes: int, what: str = "") -> bytes:
        """Payload of a reply that must carry no descriptors."""
        reply = self._connection.request(command, request, reply_bytes=reply_bytes, what=what)
        _close(reply.fds)
        return reply.payload

    def posted_write(self, bar: int) -> tuple[int, bytes]:
        """The socket, and the message that `write_bar(bar, 0, 4, 0, posted=True)` would send over it."""
        payload = vfio_user_wire.REGION_ACCESS.pack(0, bar, 4) + bytes(4)
        return self._connection.fileno(), vfio_user_wire.message(Command.REGION_WRITE, payload, 0, posted=True)

    def _read(self, region: int, offset: int, count: int) -> bytes:
        limit = self._connection.max_data_bytes
        pieces = []
        while count:
            piece = min(count, limit)
            request = vfio_user_wire.REGION_ACCESS.pack(offset, region, piece)
            expected = len(request) + piece
            reply = self._ask(Command.REGION_READ, request, expected, f"read of {piece} bytes at {offset:#x}")
            if reply[: len(request)] != request or len(reply) != expected:
                raise ProtocolError(f"{self.uri}: reply to a read of region {region} is for another access")
            pieces.append(reply[len(request) :])
            offset += piece
            count -= piece
        return b"".join(pieces)

    def _write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        if len(data) > self._connection.max_data_bytes:
            raise BusError(f"write of {len(data)} bytes exceeds {self._connection.max_data_bytes}")
        request = vfio_user_wire.REGION_ACCESS.pack(offset, region, len(data)) + data
        if posted:
            self._connection.post(Command.REGION_WRITE, request)
        else:
            self._ask(Command.REGION_WRITE, request, 0, f"write of {len(data)} bytes at {offset:#x}")

    def _map(self, info: RegionInfo) -> mmap.mmap:
        fd = self._region_fds[info.region]
        # A file shorter than the region would fault on access (SIGBUS).
        if os.fstat(fd).st_size < info.offset + info.size:
            raise ProtocolError(f"{self.uri}: descriptor of region {info.region} is shorter than {info.size:#x} bytes")
        try:
            return mmap.mmap(fd, info.size, offset=info.offset)
        except (OSError, ValueError, OverflowError) as error:
            raise ProtocolError(f"{self.uri}: region {info.region} cannot be mapped: {error}") from None

    def write_event(self, bar: int) -> int | None:
        """Eventfd of the first sub-region that has one, through DEVICE_GET_REGION_IO_FDS."""
        with self._lock:
            if bar not in self._events:
                self._events[bar] = self._region_event(bar)
            return self._events[bar]

    def _region_event(self, bar: int) -> int | None:
        size = PAGE_BYTES
        head = vfio_user_wire.REGION_IO_FDS
        try:
            reply = self._connection.request(
                Command.DEVICE_GET_REGION_IO_FDS, head.pack(size, 0, bar, 0), reply_bytes=head.size
            )
        except RequestRefusedError:
            return None
        chosen: int | None = None
        try:
            _, _, index, count = head.unpack_from(reply.payload)
            if index != bar or len(reply.payload) < head.size + count * vfio_user_wire.SUB_REGION.size:
                raise ProtocolError(f"{self.uri}: descriptors of region {index} with {count} sub-regions do not fit")
            for number in range(count):
                position = head.size + number * vfio_user_wire.SUB_REGION.size
                _, _, fd_index, kind, _, _, _ = vfio_user_wire.SUB_REGION.unpack_from(reply.payload, position)
                if kind == vfio_user_wire.SUB_REGION_IOEVENTFD and fd_index < len(reply.fds):
                    chosen = reply.fds[fd_index]
                    # The server made it; a full counter must not block our doorbell.
                    fcntl.fcntl(chosen, fcntl.F_SETFL, fcntl.fcntl(chosen, fcntl.F_GETFL) | os.O_NONBLOCK)
                    return chosen
            return None
        finally:
            _close([fd for fd in reply.fds if fd != chosen])

    def _map_memory(self, size_bytes: int) -> tuple[mmap.mmap, int, Callable[[], None]]:
        """Sealed memfd, mapped here and passed to the server in one message."""
        try:
            fd, memory = _sealed_memory(size_bytes)
        except OSError as error:
            raise ArenaFullError(f"{self.uri}: {size_bytes} bytes of DMA memory: {error.strerror}") from None
        try:
            with self._lock:
                iova = self._next_iova
                self._next_iova += size_bytes
            self.map_dma(fd, 0, iova, size_bytes)
            return memory, iova, lambda: self._unmap_memory(iova, size_bytes)
        finally:
            os.close(fd)

    def _unmap_memory(self, iova: int, size_bytes: int) -> None:
        if not self._connection.closed:
            self.unmap_dma(iova, size_bytes)

    @checked
    def map_dma(
        self, fd: int | None, offset: int, iova: int, size_bytes: int, flags: DmaFlags = DmaFlags.READ | DmaFlags.WRITE
    ) -> None:
        """Map `size_bytes` bytes of a file at an I/O address of the caller's choice; fd None: memory without pointer.

        `allocate_arena` chooses addresses from 4 GiB on; mixing both is the caller's business.
        """
        for argument, value in (("offset", offset), ("iova", iova), ("size_bytes", size_bytes)):
            integer("map_dma", argument, value, 0, (1 << 64) - 1)
        request = vfio_user_wire.DMA_MAP.pack(vfio_user_wire.DMA_MAP.size, flags, offset, iova, size_bytes)
        reply = self._connection.request(
            Command.DMA_MAP, request, fds=() if fd is None else (fd,), what=f"DMA map of {size_bytes:#x} at {iova:#x}"
        )
        _close(reply.fds)

    def unmap_dma(self, iova: int, size_bytes: int) -> None:
        """Remove what is mapped at an I/O address; when it returns the server no longer touches that memory."""
        for argument, value in (("iova", iova), ("size_bytes", size_bytes)):
            integer("unmap_dma", argument, value, 0, (1 << 64) - 1)
        request = vfio_user_wire.DMA_UNMAP.pack(vfio_user_wire.DMA_UNMAP.size, 0, iova, size_bytes)
        self._ask(Command.DMA_UNMAP, request, 0, f"DMA unmap of {size_bytes:#x} at {iova:#x}")

    def _signal(self, events: Sequence[int | None]) -> None:
        """As many eventfds per message as the server takes."""
        flags = IrqSetFlags.DATA_EVENTFD | IrqSetFlags.ACTION_TRIGGER
        start = 0
        while start < len(events):
            run: list[int] = []
            for event in events[start : start + self._connection.max_fds]:
                if event is None:
                    break
                run.append(event)
            if run:
                self._set_irqs(flags, start, len(run), run)
            start += max(len(run), 1)

    def disable_interrupts(self) -> None:
        """Take all eventfds back."""
        self._require_ours("interrupts")
        if self._vectors:
            self._set_irqs(IrqSetFlags.DATA_NONE | IrqSetFlags.ACTION_TRIGGER, 0, 0, ())

    def _set_irqs(self, flags: IrqSetFlags, start: int, count: int, fds: Sequence[int]) -> None:
        request = vfio_abi.IRQ_SET.pack(vfio_abi.IRQ_SET.size, flags, Irq.MSIX, start, count)
        _close(self._connection.request(Command.DEVICE_SET_IRQS, request, fds=fds).fds)

    def reset(self) -> None:
        """DEVICE_RESET; returns when the device has stopped."""
        self._ask(Command.DEVICE_RESET, b"", 0)

    def close(self) -> None:
        """Close the connection: the server forgets our memory and eventfds and resets the function."""
        self._connection.close()
        self._close_memory()
        self._let_go()

    def _let_go(self) -> None:
        with self._lock:
            fds = [*self._region_fds.values(), *(event for event in self._events.values() if event is not None)]
            self._region_fds, self._events = {}, {}
        _close(fds)


def _sealed_memory(size_bytes: int) -> tuple[int, mmap.mmap]:
    """A memfd and its mapping; OSError if there is no descriptor or no memory left."""
    fd = os.memfd_create("ihsm-dma", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        # The server maps it too and must not be exposed to a shrinking file.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return fd, mmap.mmap(fd, size_bytes)
    except OSError:
        os.close(fd)
        raise


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
