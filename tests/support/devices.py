# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Devices under test over both hosts of the engine, behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ihsm.bus import VfioUserFunction
from ihsm.bus.function import PciFunction
from ihsm.driver.doorbells import Doorbells
from ihsm.trace.replay import function_level_reset
from ihsm_abi.pci import Bar
from ihsm_device import pci
from ihsm_device.doe import NoObjects, Objects
from ihsm_device.function import Function
from ihsm_device.server import Server
from support.loopback import LoopbackFunction
from support.modules import ReversingModule

MSIX_CONTROL: Final = pci.MSIX_POSITION + 2
FUNCTION_MASK: Final = 1 << 14
HOSTS: Final = ("loopback", "vfio-user", "doorbell-page")
"""The engine's two hosts; the last is vfio-user again, with doorbells stored into a mapped page."""


@dataclass(frozen=True)
class DeviceUnderTest:
    """The client's view, the device's side, and how to ask for a function level reset."""

    function: PciFunction
    device: Function
    module: ReversingModule
    level_reset: Callable[[], None]
    map_dma: Callable[[int, int, int, int], None]
    """Map a file (descriptor, offset) at an I/O address (address, size)."""
    set_function_mask: Callable[[bool], None]
    """Mask all MSI-X vectors at once."""


class MappedDoorbells(VfioUserFunction):
    """A client that rings by storing into the mapped BAR2."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._doorbells = Doorbells(self)

    def write_bar(self, bar: int, offset: int, width: int, value: int, *, posted: bool = False) -> None:
        if bar == Bar.DOORBELLS:
            self._doorbells.ring(offset, value)
        else:
            super().write_bar(bar, offset, width, value, posted=posted)

    def close(self) -> None:
        self._doorbells.close()
        super().close()


@contextmanager
def open_device(
    host: str, folder: Path, *, resources: int = 1, objects: Objects | None = None
) -> Iterator[DeviceUnderTest]:
    """A fresh device over one of HOSTS; `folder` is for its socket, `objects` answers what comes into its mailbox."""
    module = ReversingModule()
    if host == "loopback":
        with LoopbackFunction(module, resources=resources) as loopback, opened_gate(module):
            yield DeviceUnderTest(
                loopback,
                loopback.device,
                module,
                loopback.reset,
                loopback.map_dma,
                loopback.engine.set_function_mask,
            )
        return
    is_page = host == "doorbell-page"
    server = Server(
        [folder / "f.sock"],
        lambda index: module,
        make_objects=lambda index, interface: objects or NoObjects(),
        resources=resources,
        doorbell_page=is_page,
    )
    server.start()
    client = MappedDoorbells if is_page else VfioUserFunction
    try:
        with client(folder / "f.sock") as function, opened_gate(module):
            yield DeviceUnderTest(
                function,
                server.functions[0],
                module,
                lambda: function_level_reset(function),
                function.map_dma,
                lambda masked: _set_config_bit(function, MSIX_CONTROL, FUNCTION_MASK, masked),
            )
    finally:
        server.stop()


@contextmanager
def opened_gate(module: ReversingModule) -> Iterator[None]:
    """Let waiting commands end before the device is closed."""
    try:
        yield
    finally:
        module.gate.set()


def _set_config_bit(function: PciFunction, offset: int, bit: int, value: bool) -> None:
    word = int.from_bytes(function.read_config(offset, 2), "little")
    function.write_config(offset, (word | bit if value else word & ~bit).to_bytes(2, "little"))
