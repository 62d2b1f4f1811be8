# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The devices that a store can have: one with a URI, or a private one whose state lies in the store's folder."""

from __future__ import annotations

import os
import time
import weakref
from pathlib import Path
from typing import Final

from ihsm import forks
from ihsm.bus import VfioUserFunction
from ihsm.driver import Controller, DriverOptions, OpenDevice
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import ArgumentError, BusError, DeviceBusyError, DeviceNotFoundError, StoreBusyError
from ihsm.locks import try_lock, unlock
from ihsm.store import DEVICE, Store, StoreDevice
from ihsm.store.files import errors_of
from ihsm.uri import AUTO, DeviceUri, choose_device, named_device, open_at, patiently

PRIVATE: Final = "private"
"""Names, in place of a URI, a private device for a new store."""

POLL_INTERVAL_S: Final = 0.05
RESTART_S: Final = 10.0
"""How long a device that was there may be gone: whoever restarts it takes some seconds."""


class NamedDevice:
    """A device at a URI."""

    def __init__(self, uri: DeviceUri, options: DriverOptions, *, named: bool, wait_s: float) -> None:
        """Nothing is opened yet; `wait_s`: how long to wait for one that another has, in seconds."""
        self.uri = uri
        self.named = named
        self._options = options
        self._wait_s = wait_s
        self._was_there = False

    def open(self) -> OpenDevice:
        """Reach the device, and bring it up where that is ours to do.

        One that another has is waited for as long as the caller said; one that was there before gets time to come back.

        Raises:
            DeviceNotFoundError, DeviceBusyError, BusError, DriverError: it cannot be reached.
        """
        now = time.monotonic()
        back = now + (RESTART_S if self._was_there else 0)
        free = max(now + self._wait_s, back)
        while True:
            try:
                device = open_at(self.uri, self._options, wait_s=max(free - time.monotonic(), 0.0))
                self._was_there = True
                return device
            except (DeviceNotFoundError, BusError) as error:
                if time.monotonic() >= (free if isinstance(error, DeviceBusyError) else back):
                    raise
            time.sleep(POLL_INTERVAL_S)

    @property
    def store_device(self) -> StoreDevice:
        """As a store keeps it."""
        return StoreDevice.at(str(self.uri))

    def close(self) -> None:
        """Nothing to let go of."""


class PrivateDevice:
    """A device process of our own, with its state in a folder, for one program at a time."""

    named = True

    def __init__(self, state: Path, options: DriverOptions, *, wait_s: float) -> None:
        """Lock the folder `state`; `wait_s`: how long to wait for another program that has it, in seconds.

        Raises:
            StoreBusyError: another program has it; the message says which.
        """
        self._state = state
        self._options = options
        self._device: EmbeddedDevice | None = None
        self._lock = _locked(state.with_name(f"{state.name}.lock"), wait_s)
        # One who forgets to close leaves neither the lock nor, for `Kept` sees to that, the process.
        self._unlock = weakref.finalize(self, _unlocked, self._lock)
        forks.watch(self)

    def forked(self) -> None:
        """In a child of fork(): what locks the device is the parent's, for as long as that has it."""
        if self._unlock.detach() is not None:
            os.close(self._lock)

    @property
    def store_device(self) -> StoreDevice:
        """As a store keeps it."""
        return StoreDevice.private()

    def open(self) -> Controller:
        """Start the device, if it does not run, and bring it up.

        Raises:
            EmbeddedDeviceError: it cannot be started.
            BusError, DriverError: it cannot be brought up.
        """
        if self._device is not None:
            self._device.close()
        self._device = EmbeddedDevice(["--state", os.fspath(self._state)])
        return Controller(VfioUserFunction(self._device.socket_path), self._options)

    def close(self) -> None:
        """End the device and let others have it; harmless the second time."""
        try:
            if self._device is not None:
                self._device.close()
                self._device = None
        finally:
            self._unlock()


def _locked(path: Path, wait_s: float) -> int:
    """A locked file that names us, so that who is refused can say by whom; errors of the system are the store's."""
    deadline = time.monotonic() + wait_s
    with errors_of(path, "locked"):
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            while not try_lock(lock):
                if time.monotonic() >= deadline:
                    holder = os.pread(lock, 20, 0).decode("ascii", "replace") or "unknown"
                    raise StoreBusyError(
                        f"{path.parent}: process {holder} has the store's private device; wait for it (--wait, wait_s)"
                        " or end it"
                    )
                time.sleep(POLL_INTERVAL_S)
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
            return lock
        except BaseException:
            os.close(lock)
            raise


def _unlocked(lock: int) -> None:
    unlock(lock)
    os.close(lock)


def device_for(store: Store, given: str | None, options: DriverOptions, wait_s: float) -> NamedDevice | PrivateDevice:
    """The device to use a store with: the one given, $IHSM_DEVICE, or its own.

    Raises:
        UriError: what was given is no URI.
        StoreBusyError: another program has the store's private device.
    """
    uri = None if given == PRIVATE else named_device(given or AUTO)
    if uri is not None:
        return NamedDevice(uri, options, named=True, wait_s=wait_s)
    if given == PRIVATE and store.device.uri is not None:
        raise ArgumentError("Hsm", "device", f"store {store.name} has none of its own but {store.device.uri}")
    if store.device.uri is not None:
        return NamedDevice(DeviceUri.parse(store.device.uri), options, named=False, wait_s=wait_s)
    return PrivateDevice(store.path / DEVICE, options, wait_s=wait_s)


def new_device(given: str | None, state: Path, options: DriverOptions, wait_s: float) -> NamedDevice | PrivateDevice:
    """The device to make a store with: the one given, $IHSM_DEVICE, the one free device found, or a private one.

    Where all that are found belong to others, one is waited for `wait_s` seconds, and no private one is made.

    Raises:
        UriError, AmbiguousDeviceError, DeviceBusyError, DeviceNotFoundError: see `ihsm.uri.choose_device`.
    """
    if given == PRIVATE:
        return PrivateDevice(state, options, wait_s=wait_s)
    end = time.monotonic() + wait_s
    uri = patiently(lambda: choose_device(given or AUTO), wait_s)
    left_s = max(end - time.monotonic(), 0.0)
    if uri is None:
        return PrivateDevice(state, options, wait_s=left_s)
    return NamedDevice(uri, options, named=True, wait_s=left_s)
