# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Ways to a security module for the typed client: straight into one, or over rings, interrupts and a socket."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ihsm.bus import VfioUserFunction
from ihsm.ddi import Transport
from ihsm.driver import Controller
from ihsm.embedded import EmbeddedDevice
from ihsm_abi.ddi import DeviceKind
from ihsm_device.hsm.device import DeviceOptions, HsmDevice
from support.hsm import ModuleTransport

TABLES: Final = 3


@dataclass(frozen=True)
class Connection:
    """A client's connection to a partition that has no credential."""

    transport: Transport
    nssr: Callable[[], None]
    """Reset the subsystem."""


class Way(ABC):
    """A device and how clients reach it."""

    kind: DeviceKind

    @abstractmethod
    def connect(self) -> contextlib.AbstractContextManager[Connection]:
        """One client after the other; credential, sessions and keys end with it."""


class ModuleWay(Way):
    """Commands go straight to a security module in this process."""

    def __init__(self, device: HsmDevice) -> None:
        self._device = device
        self.kind = device.options.kind

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        module = self._device.function(0, TABLES)
        yield Connection(ModuleTransport(module), module.nssr)
        module.partition_reset()


class SocketWay(Way):
    """Commands go through HSM rings of a device in another process."""

    def __init__(self, device: EmbeddedDevice, kind: DeviceKind) -> None:
        self._device = device
        self.kind = kind

    @contextlib.contextmanager
    def connect(self) -> Iterator[Connection]:
        with Controller(VfioUserFunction(self._device.socket_path)) as controller:
            yield Connection(controller, lambda: controller.reset(subsystem=True))


@contextlib.contextmanager
def module_way(kind: DeviceKind) -> Iterator[Way]:
    """A device in this process."""
    with HsmDevice(DeviceOptions(kind=kind)) as device:
        yield ModuleWay(device)


@contextlib.contextmanager
def socket_way(kind: DeviceKind) -> Iterator[Way]:
    """A device that serves a vfio-user socket."""
    with EmbeddedDevice(["--resources", str(TABLES), "--kind", kind.name.lower()]) as device:
        yield SocketWay(device, kind)


WAYS: Final = {"module": module_way, "socket": socket_way}
