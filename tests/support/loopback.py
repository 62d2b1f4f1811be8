# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A device in this process, over the engine's loopback host: the interface of `ihsm.bus` without any socket."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Self

from ihsm.bus.arena import DmaArena
from ihsm.bus.function import PciFunction, check_access, octets_of
from ihsm.errors import BusError
from ihsm_abi.doorbells import STRIDE_BYTES
from ihsm_abi.pci import BAR_BYTES, MSIX_VECTORS, PAGE_BYTES, Bar
from ihsm_device.engine import Engine
from ihsm_device.function import Function, Module
from ihsm_device.hosts import LoopbackHost
from ihsm_device.scheduler import Scheduler
from ihsm_device.workers import WorkerPool

FIRST_IOVA = 0x1_0000_0000


class LoopbackFunction(PciFunction):
    """A function of its own, with its own workers; `device` is the device's side of it.

    An access that no bus carries is refused here, as that of a socket's function is.
    """

    uri = "loopback:"

    def __init__(self, module: Module, *, resources: int = 1) -> None:
        self._scheduler, host = Scheduler(), LoopbackHost()
        self._attach(Function(Engine(self._scheduler, host), module, resources=resources), host)
        self._pool = WorkerPool(self._scheduler, lambda command: self.device)
        self._pool.start()

    @classmethod
    def around(cls, device: Function, host: LoopbackHost) -> Self:
        """The client's view of a function whose scheduler and workers are the caller's; end it with `release`."""
        function = cls.__new__(cls)
        function._attach(device, host)
        return function

    def _attach(self, device: Function, host: LoopbackHost) -> None:
        self.device, self.engine, self.host = device, device.engine, host
        self._arenas: list[DmaArena] = []
        self._next_iova = FIRST_IOVA

    @property
    def config_bytes(self) -> int:
        return 0

    def read_config(self, offset: int, size_bytes: int) -> bytes:
        raise BusError("a loopback function has no configuration space")

    def write_config(self, offset: int, data: bytes) -> None:
        raise BusError("a loopback function has no configuration space")

    def bar_bytes(self, bar: int) -> int:
        return BAR_BYTES if bar in tuple(Bar) else 0

    def read_bar(self, bar: int, offset: int, width: int) -> int:
        check_access(self.bar_bytes(bar), offset, width, f"BAR{bar}")
        match bar:
            case Bar.REGISTERS:
                return int.from_bytes(self.device.controller.read(offset, width), "little")
            case Bar.MSIX:
                return int.from_bytes(self.engine.read_msix(offset, width), "little")
        return 0

    def write_bar(self, bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        check_access(self.bar_bytes(bar), offset, width, f"BAR{bar}")
        data = octets_of(value, width, f"BAR{bar}")
        match bar:
            case Bar.REGISTERS:
                self.device.controller.write(offset, data)
            case Bar.DOORBELLS if width % STRIDE_BYTES == 0:  # whole doorbells, as over a socket
                for at in range(0, width, STRIDE_BYTES):
                    self.engine.doorbell(offset + at, value >> 8 * at & 0xFFFF_FFFF)
            case Bar.MSIX:
                self.engine.write_msix(offset, data)

    def map_bar(self, bar: int) -> mmap.mmap | None:
        return None

    def write_event(self, bar: int) -> int | None:
        return None

    def allocate_arena(self, size_bytes: int) -> DmaArena:
        size = -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
        iova, self._next_iova = self._next_iova, self._next_iova + size + PAGE_BYTES
        memory = mmap.mmap(-1, size)
        self.host.map(iova, memory)
        arena = DmaArena(memory, iova, lambda: self.host.unmap(iova, size))
        self._arenas.append(arena)
        return arena

    def map_dma(self, fd: int, offset: int, iova: int, size_bytes: int) -> None:
        """As `VfioUserFunction.map_dma`."""
        self.host.map(iova, mmap.mmap(fd, size_bytes, offset=offset))

    @property
    def vectors(self) -> int:
        return MSIX_VECTORS

    def enable_interrupts(self, events: Sequence[int | None]) -> None:
        for vector in range(MSIX_VECTORS):
            self.host.set_eventfd(vector, events[vector] if vector < len(events) else None)

    def disable_interrupts(self) -> None:
        self.enable_interrupts([])

    def reset(self) -> None:
        # In the owner's place, and so under what keeps faults from resetting the function meanwhile.
        with self.engine.function_mutex():
            self.device.controller.reset()

    def release(self) -> None:
        """As a client that goes away, and the engine with it."""
        self.device.controller.client_lost()
        for arena in self._arenas:
            arena.close()
        self.device.faults.close()
        self.engine.close()

    def close(self) -> None:
        self.device.controller.client_lost()
        self._pool.stop()
        self.release()
        self._scheduler.close()
