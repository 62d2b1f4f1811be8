# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Device URIs: `vfio-user:PATH`, `pci:BDF`, `chardev:PATH`, `auto`; which device is taken, and waiting for one.

The order is: the URI that is given, `$IHSM_DEVICE`, the device that the caller's store belongs to, the one free device
that this user started, and a private one where the caller allows that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeVar

from ihsm.arguments import waiting_time
from ihsm.errors import (
    HOW_TO_WAIT,
    AmbiguousDeviceError,
    ArgumentTypeError,
    DeviceBusyError,
    DeviceNotFoundError,
    UriError,
)

# Loaded when used: to name a device takes none of what opens one.
if TYPE_CHECKING:
    from ihsm.bus import PciFunction, SysfsConfig
    from ihsm.bus.discovery import FoundFunction
    from ihsm.driver import Controller, DriverOptions, OpenDevice

_log = logging.getLogger(__name__)

BDF: Final = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", re.IGNORECASE)
AUTO: Final = "auto"
DEVICE_VARIABLE: Final = "IHSM_DEVICE"
"""Environment variable with the URI of the device that `auto` takes; empty, or itself auto, it says nothing."""
RETRY_S: Final = 0.25
"""How often a device is looked at that others have, where nothing tells when they leave."""

T = TypeVar("T")
C = TypeVar("C", bound=contextlib.AbstractContextManager[object])


class Scheme(StrEnum):
    """What stands before the colon."""

    VFIO_USER = "vfio-user"
    PCI = "pci"
    CHARDEV = "chardev"


@dataclass(frozen=True, slots=True)
class DeviceUri:
    """A parsed URI of one device."""

    scheme: Scheme
    address: str
    """Path of a socket or node, or PCI address with its domain."""

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
            raise UriError(f"device URI {text!r}: vfio-user:PATH, pci:BDF, chardev:PATH or auto expected")
        if scheme == Scheme.PCI:
            match = BDF.fullmatch(address)
            if not match:
                raise UriError(f"device URI {text!r}: {address!r} is no PCI address like 0000:00:04.0")
            domain, bus, slot, function = match.groups()
            address = f"{domain or '0000'}:{bus}:{slot}.{function}".lower()
        elif not address or "\0" in address:
            raise UriError(f"device URI {text!r}: a path is missing")
        return cls(Scheme(scheme), address)

    def __str__(self) -> str:
        """The URI."""
        return f"{self.scheme}:{self.address}"


def named_device(text: str = AUTO) -> DeviceUri | None:
    """The device that is named: by `text`, or for `auto` by `$IHSM_DEVICE`; None if it is not.

    Raises:
        UriError: what names it is no URI; the message says whether that is the variable.
    """
    if text != AUTO:
        return DeviceUri.parse(text)
    named = os.environ.get(DEVICE_VARIABLE, "")
    if named in ("", AUTO):
        return None
    try:
        uri = DeviceUri.parse(named)
    except UriError as error:
        raise UriError(f"environment variable {DEVICE_VARIABLE}: {error}") from None
    _log.info("auto: taking %s, which %s names", uri, DEVICE_VARIABLE)
    return uri


def choose_device(
    text: str = AUTO, *, own: DeviceUri | None = None, busy: bool = False, sysfs: bool = False
) -> DeviceUri | None:
    """The device to use; None if none is named and there is none at all.

    Args:
        text: URI, or `auto`: `$IHSM_DEVICE`, else `own`, else what `find_device` finds.
        own: the device that the caller's store belongs to.
        busy: whether to take one that others have, to be asked without being opened.
        sysfs: see `find_device`.

    Raises:
        UriError: what names the device is no URI.
        AmbiguousDeviceError, DeviceNotFoundError, DeviceBusyError: see `find_device`.
    """
    return named_device(text) or own or find_device(busy=busy, sysfs=sysfs)


def find_device(*, busy: bool = False, sysfs: bool = False) -> DeviceUri | None:
    """The one free device that this user started, None if there is none at all; the log, on stderr, says which it is.

    To be opened is to be reset: keys and credentials of whoever had the device before are gone. So a device is taken
    only if it is named, or is the user's own: a socket that they made, or a function of a guest that they started.

    Args:
        busy: whether to take one that others have, too.
        sysfs: whether PCI functions are reached through sysfs, which whoever has them does not notice.

    Raises:
        AmbiguousDeviceError: there are several.
        DeviceBusyError: there are some, but others have them all; the message says who.
        DeviceNotFoundError: there are others', which have to be named.
    """
    from ihsm.bus.discovery import find_all

    found = [function for function in find_all() if function.listening]
    own = [function for function in found if _own(DeviceUri.parse(function.uri))]
    if found and not own:
        names = ", ".join(uri for function in found for uri in _ways(function, sysfs=sysfs))
        raise DeviceNotFoundError(f"auto takes no device that you did not start; name it with --device: {names}")
    free = [
        function.uri
        for function in own
        if busy or (sysfs and DeviceUri.parse(function.uri).scheme == Scheme.PCI) or _holder(function) is None
    ]
    if len(free) > 1:
        raise AmbiguousDeviceError(free)
    if own and not free:
        users = "; ".join(f"{function.uri} is in use by {_holder(function)}" for function in own)
        raise DeviceBusyError(f"auto: no free device: {users}; {HOW_TO_WAIT}")
    if not free:
        return None
    _log.warning("auto: taking %s", free[0])
    return DeviceUri.parse(free[0])


def _own(uri: DeviceUri) -> bool:
    """Whether this user started the device; one that a driver has is everybody's."""
    if uri.scheme == Scheme.CHARDEV:
        return False
    if uri.scheme == Scheme.PCI:
        from ihsm.bus.vfio_bind import GUEST_VARIABLE

        return GUEST_VARIABLE in os.environ
    try:
        return Path(uri.address).stat().st_uid == os.geteuid()
    except OSError:  # gone meanwhile
        return False


def _holder(function: FoundFunction) -> str | None:
    """Who has a function; None if it is free as far as can be told without opening it."""
    if function.holder is not None:
        return str(function.holder)
    from ihsm.bus.vfio_bind import VFIO_PCI

    if function.driver in (None, VFIO_PCI):
        return None
    nodes = " or ".join(_nodes(function))
    return f"the driver {function.driver}" + (f", behind {nodes}" if nodes else "")


def _ways(function: FoundFunction, *, sysfs: bool) -> list[str]:
    """URIs by which a function can be opened: where a kernel's driver has it, those of its nodes, save for sysfs."""
    return (not sysfs and _nodes(function)) or [function.uri]


def _nodes(function: FoundFunction) -> list[str]:
    return [f"{Scheme.CHARDEV}:{node}" for node in function.hsm_nodes]


def patiently(attempt: Callable[[], T], wait_s: float) -> T:
    """What `attempt` gives, tried again for `wait_s` seconds while it raises `DeviceBusyError`."""
    end = time.monotonic() + wait_s
    while True:
        try:
            return attempt()
        except DeviceBusyError:
            left_s = end - time.monotonic()
            if left_s <= 0:
                raise
        time.sleep(min(RETRY_S, left_s))


def open_uri(uri: DeviceUri, *, wait_s: float = 0.0) -> PciFunction:
    """Reach the function at a URI; the caller closes it.

    Args:
        uri: where it is.
        wait_s: how long to wait for a function that others have, in seconds.

    Raises:
        DeviceBusyError: others have it, and keep it so long.
        DeviceNotFoundError, BusError: it is not there or cannot be reached.
        UriError: it is a node, behind which a driver has the function.
        ArgumentError, ArgumentTypeError: `wait_s` is no time to wait.
    """
    wait_s = waiting_time("open_uri", "wait_s", wait_s)
    if uri.scheme == Scheme.CHARDEV:
        raise UriError(f"{uri}: a function itself is needed, vfio-user:PATH or pci:BDF, and here its driver has it")
    if uri.scheme == Scheme.VFIO_USER:
        from ihsm.bus import VfioUserFunction

        return VfioUserFunction(uri.address, wait_s=wait_s)
    from ihsm.bus.vfio_kernel import KernelVfioFunction

    return patiently(lambda: KernelVfioFunction(uri.address), wait_s)


def open_config_uri(uri: DeviceUri, *, wait_s: float = 0.0) -> PciFunction | SysfsConfig:
    """Reach the configuration space of the function at a URI; the caller closes it. Errors as of `open_uri`.

    A PCI function is reached through sysfs, whichever driver has it: the kernel's VFIO shows less of it.

    Raises:
        ConfigRefusedError: this user may not.
    """
    if uri.scheme == Scheme.PCI:
        from ihsm.bus import SysfsConfig

        return patiently(lambda: SysfsConfig.open(uri.address), waiting_time("open_config_uri", "wait_s", wait_s))
    return open_uri(uri, wait_s=wait_s)


def open_at(uri: DeviceUri, options: DriverOptions | None = None, *, wait_s: float = 0.0) -> OpenDevice:
    """Open the device at a URI, whatever its scheme; the caller closes it.

    Args:
        uri: where it is.
        options: of the driver.
        wait_s: how long to wait for a function that others have, in seconds; a node is never waited for.

    Raises:
        DeviceNotFoundError, DeviceBusyError, BusError, DriverError: it cannot be reached or brought up.
        ArgumentError, ArgumentTypeError: `wait_s` is no time to wait.
    """
    if uri.scheme == Scheme.CHARDEV:
        from ihsm.chardev import NodeDevice

        return NodeDevice(uri.address, options)
    from ihsm.driver import Controller

    return Controller(open_uri(uri, wait_s=wait_s), options)


@contextlib.contextmanager
def _opened(
    caller: str,
    text: str,
    open_one: Callable[[DeviceUri, float], C],
    own: DeviceUri | None,
    private: bool,
    wait_s: float,
    *,
    sysfs: bool = False,
) -> Iterator[C]:
    """Context with what `open_one` makes of the device to use and the seconds that are left to wait."""
    wait_s = waiting_time(caller, "wait_s", wait_s)
    end = time.monotonic() + wait_s

    def attempt() -> C | None:
        uri = choose_device(text, own=own, sysfs=sysfs)
        return None if uri is None else open_one(uri, max(end - time.monotonic(), 0.0))

    with contextlib.ExitStack() as stack:
        opened = patiently(attempt, wait_s)
        if opened is None and not private:
            raise DeviceNotFoundError(
                f"auto: no device found: start one (ihsm serve), or name one with --device or {DEVICE_VARIABLE}"
            )
        if opened is None:
            from ihsm.embedded import EmbeddedDevice

            device = stack.enter_context(EmbeddedDevice())
            _log.warning("auto: no device found, taking a private one for the duration (process %d)", device.pid)
            opened = open_one(DeviceUri(Scheme.VFIO_USER, str(device.socket_path)), 0.0)
        stack.enter_context(opened)
        yield opened


def open_function(
    text: str = AUTO, *, own: DeviceUri | None = None, private: bool = True, wait_s: float = 0.0
) -> contextlib.AbstractContextManager[PciFunction]:
    """Context with the function of a device, see `choose_device`.

    Args:
        text: URI, or `auto`.
        own: the device that the caller's store belongs to.
        private: whether a private device is started where none is named or found.
        wait_s: how long to wait for a device that others have, in seconds.

    Raises:
        DeviceBusyError: others have it, and keep it so long; the message says who.
        UriError, DeviceNotFoundError, AmbiguousDeviceError, EmbeddedDeviceError, BusError: it cannot be reached, or is
            a node, behind which a driver has the function.
        ArgumentError, ArgumentTypeError: `wait_s` is no time to wait.
    """

    def open_one(uri: DeviceUri, left_s: float) -> PciFunction:
        return open_uri(uri, wait_s=left_s)

    return _opened("open_function", text, open_one, own, private, wait_s)


def open_config(
    text: str = AUTO, *, own: DeviceUri | None = None, private: bool = True, wait_s: float = 0.0
) -> contextlib.AbstractContextManager[PciFunction | SysfsConfig]:
    """Context with the configuration space of a function, see `open_config_uri`; arguments as of `open_function`.

    `auto` takes a PCI function of the user's own whichever driver has it.

    Raises:
        ConfigRefusedError: this user may not.
        IhsmError: as `open_function`.
    """

    def open_one(uri: DeviceUri, left_s: float) -> PciFunction | SysfsConfig:
        return open_config_uri(uri, wait_s=left_s)

    return _opened("open_config", text, open_one, own, private, wait_s, sysfs=True)


@contextlib.contextmanager
def open_controller(
    text: str = AUTO,
    options: DriverOptions | None = None,
    *,
    own: DeviceUri | None = None,
    private: bool = True,
    wait_s: float = 0.0,
) -> Iterator[Controller]:
    """Context with the function of a device brought up, see `open_function` and `Controller`."""
    from ihsm.driver import Controller

    with (
        open_function(text, own=own, private=private, wait_s=wait_s) as function,
        Controller(function, options) as controller,
    ):
        yield controller


def open_device(
    text: str = AUTO,
    options: DriverOptions | None = None,
    *,
    own: DeviceUri | None = None,
    private: bool = True,
    wait_s: float = 0.0,
) -> contextlib.AbstractContextManager[OpenDevice]:
    """Context with a device that can be used, whichever way its URI reaches it; arguments as of `open_function`.

    Raises:
        DriverError: it cannot be brought up.
        IhsmError: as `open_function`.
    """

    def open_one(uri: DeviceUri, left_s: float) -> OpenDevice:
        return open_at(uri, options, wait_s=left_s)

    return _opened("open_device", text, open_one, own, private, wait_s)
