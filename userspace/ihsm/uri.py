# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Device URIs: `vfio-user:PATH`, `pci:BDF`, `auto`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from ihsm.bus import PciFunction, VfioUserFunction
from ihsm.bus.discovery import find_all
from ihsm.driver import Controller, DriverOptions
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import AmbiguousDeviceError, UriError

BDF: Final = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE)
AUTO: Final = "auto"


class Scheme(StrEnum):
    """What stands before the colon."""

    VFIO_USER = "vfio-user"
    PCI = "pci"


@dataclass(frozen=True, slots=True)
class DeviceUri:
    """A parsed URI of one device."""

    scheme: Scheme
    address: str
    """Socket path, or PCI address with its domain."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URI other than `auto`.

        Raises:
            UriError: the message says what is wrong.
        """
        scheme, colon, address = text.partition(":")
        if not colon or scheme not in {member.value for member in Scheme}:
            raise UriError(f"device URI {text!r}: vfio-user:PATH, pci:BDF or auto expected")
        if scheme == Scheme.PCI:
            match = BDF.fullmatch(address)
            if not match:
                raise UriError(f"device URI {text!r}: {address!r} is no PCI address like 0000:00:04.0")
            domain, bus, slot, function = match.groups()
            address = f"{domain or '0000'}:{bus}:{slot}.{function}".lower()
        elif not address or "\0" in address:
            raise UriError(f"device URI {text!r}: a socket path is missing")
        return cls(Scheme(scheme), address)

    def __str__(self) -> str:
        """The URI."""
        return f"{self.scheme}:{self.address}"


def choose_auto() -> DeviceUri | None:
    """The one device that discovery finds, None if there is none.

    Raises:
        AmbiguousDeviceError: there are several.
    """
    found = [function.uri for function in find_all() if function.listening]
    if len(found) > 1:
        raise AmbiguousDeviceError(found)
    return DeviceUri.parse(found[0]) if found else None


def open_uri(uri: DeviceUri) -> PciFunction:
    """Reach the function at a URI; the caller closes it.

    Raises:
        DeviceNotFoundError, BusError: it is not there or cannot be reached.
    """
    if uri.scheme == Scheme.VFIO_USER:
        return VfioUserFunction(uri.address)
    from ihsm.bus.vfio_kernel import KernelVfioFunction

    return KernelVfioFunction(uri.address)


@contextlib.contextmanager
def open_function(text: str = AUTO) -> Iterator[PciFunction]:
    """Context with the function at a URI; `auto` without any device starts a private one for the duration.

    Raises:
        UriError, DeviceNotFoundError, AmbiguousDeviceError, EmbeddedDeviceError, BusError: it cannot be reached.
    """
    with contextlib.ExitStack() as stack:
        uri = choose_auto() if text == AUTO else DeviceUri.parse(text)
        if uri is None:
            device = stack.enter_context(EmbeddedDevice())
            uri = DeviceUri(Scheme.VFIO_USER, str(device.socket_path))
        yield stack.enter_context(open_uri(uri))


@contextlib.contextmanager
def open_controller(text: str = AUTO, options: DriverOptions | None = None) -> Iterator[Controller]:
    """Context with the function at a URI brought up, see `open_function` and `Controller`."""
    with open_function(text) as function, Controller(function, options) as controller:
        yield controller
