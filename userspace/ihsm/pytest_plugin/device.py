# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""One device process for many tests, as good as new for each of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ihsm.bus import VfioUserFunction
from ihsm.closing import Closing
from ihsm.control import ControlClient
from ihsm.driver import Controller
from ihsm.embedded import EmbeddedDevice
from ihsm.errors import CommandSeenError, DeviceBusyError, DeviceNotFoundError, IhsmError

_LIMIT_S: Final = 60.0
"""For an answer of the device, which may have been told to stand still."""
_LOOK_EVERY_S: Final = 0.001
LEAVING_S = 10.0
"""How long the device may take to find out that a client has gone."""


class SharedDevice(Closing):
    """A device that is lent to one test after the other; started for the first, and anew where a test has ruined it."""

    def __init__(self, arguments: Sequence[str]) -> None:
        """`arguments` are further options of `ihsm serve`. Nothing is started yet."""
        self._arguments = arguments
        self._device: EmbeddedDevice | None = None

    def lend(self) -> EmbeddedDevice:
        """The device.

        Raises:
            EmbeddedDeviceError: it cannot be started.
        """
        if self._device is None:
            self._device = EmbeddedDevice(self._arguments)
        return self._device

    def take_back(self) -> list[str]:
        """End faults, sessions and keys; what the test has left that it should not, a line each."""
        device = self._device
        if device is None:
            return []
        complaints = []
        try:
            try:
                with ControlClient(device.socket_path, _LIMIT_S) as control:
                    control.clear_faults()
            except CommandSeenError as error:
                complaints.append(str(error))
            reset(device.socket_path)
        except IhsmError as error:
            complaints.append(_reason(device, error))
            self.close()
        return complaints

    def close(self) -> None:
        """End the process, if there is one."""
        device, self._device = self._device, None
        if device is not None:
            device.close()


def reset(socket_path: Path) -> None:
    """A subsystem reset (spec 01 §4.5) of a function that nobody has; nobody has it afterwards.

    Raises:
        DeviceBusyError: a client is still connected.
        IhsmError: the function cannot be reset.
    """
    try:
        function = VfioUserFunction(socket_path, timeout_s=_LIMIT_S)
    except DeviceBusyError:
        gc.collect()  # what a test has dropped and not closed
        function = VfioUserFunction(socket_path, timeout_s=_LIMIT_S, wait_s=LEAVING_S)
    with ControlClient(socket_path, _LIMIT_S) as control:
        with Controller(function) as controller:
            before = _clients_lost(control)
            controller.reset(subsystem=True)
        end = time.monotonic() + _LIMIT_S
        # A client that has hung up is no longer shown, but registers are reset only when its end has been dealt with.
        while _clients_lost(control) == before and time.monotonic() < end:
            time.sleep(_LOOK_EVERY_S)


def _clients_lost(control: ControlClient) -> int:
    lost = control.status()["counters"]["clients_lost"]
    assert isinstance(lost, int)
    return lost


def _reason(device: EmbeddedDevice, error: IhsmError) -> str:
    if isinstance(error, DeviceBusyError):
        return f"the test has left a client of ihsm_device connected: {str(error).partition(';')[0]}"
    try:
        ControlClient(device.socket_path, _LIMIT_S).close()
    except DeviceNotFoundError:
        return "the process of ihsm_device has ended; tests that end one make their own (ihsm.embedded)"
    return f"ihsm_device cannot be reset: {error}"
