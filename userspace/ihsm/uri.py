# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Device URIs: `vfio-user:PATH`, `pci:BDF`, `auto`."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from ihsm.bus import PciFunction, VfioUserFunction
from ihsm.bus.discovery import find_all
from ihsm.driver import Controller, DriverOptions
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import AmbiguousDeviceError, ArgumentTypeError, DeviceNotFoundError, UriError

_log = logging.getLogger(__name__)

BDF: Final = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE)
AUTO: Final = "auto"
GUEST_VARIABLE: Final = "IHSM_GUEST"
"""Environment variable that `ihsm guest` sets in its guests: whoever started the guest started its functions, too."""


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
        if not isinstance(text, str):
            raise ArgumentTypeError("DeviceUri.parse", "text", f"{type(text).__name__}, must be text")
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
    """The one device that this user started, None if there is none at all; the log, on stderr, says which it is.

    To be opened is to be reset: keys and credentials of whoever had the device before are gone. So a device is taken
    only if it is named, or is the user's own: a socket that they made, or a function of a guest that they started.

    Raises:
        AmbiguousDeviceError: there are several.
        DeviceNotFoundError: there are others', which have to be named.
    """
    found = [DeviceUri.parse(function.uri) for function in find_all() if function.listening]
    own = [uri for uri in found if _own(uri)]
    if len(own) > 1:
        raise AmbiguousDeviceError([str(uri) for uri in own])
    if found and not own:
        names = ", ".join(str(uri) for uri in found)
        raise DeviceNotFoundError(f"auto takes no device that you did not start; name it with --device: {names}")
    if own:
        _log.warning("auto: taking %s", own[0])
    return own[0] if own else None


def _own(uri: DeviceUri) -> bool:
    """Whether this user started the device."""
    if uri.scheme == Scheme.PCI:
        return GUEST_VARIABLE in os.environ
    try:
        return Path(uri.address).stat().st_uid == os.geteuid()
    except OSError:  # gone meanwhile
        return False


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
    """Context with the function at a URI; `auto` without any device starts a private one, see `choose_auto`.

    Raises:
        UriError, DeviceNotFoundError, AmbiguousDeviceError, EmbeddedDeviceError, BusError: it cannot be reached.
    """
    with contextlib.ExitStack() as stack:
        uri = choose_auto() if text == AUTO else DeviceUri.parse(text)
        if uri is None:
            device = stack.enter_context(EmbeddedDevice())
            _log.warning("auto: no device found, taking a private one for the duration (process %d)", device.pid)
            uri = DeviceUri(Scheme.VFIO_USER, str(device.socket_path))
        yield stack.enter_context(open_uri(uri))


@contextlib.contextmanager
def open_controller(text: str = AUTO, options: DriverOptions | None = None) -> Iterator[Controller]:
    """Context with the function at a URI brought up, see `open_function` and `Controller`."""
    with open_function(text) as function, Controller(function, options) as controller:
        yield controller
