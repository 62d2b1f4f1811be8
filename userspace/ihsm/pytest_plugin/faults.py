# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of which it is known at the end whether they were ever hit."""

from __future__ import annotations

import contextlib

from ihsm.embedded import EmbeddedDevice
from ihsm.errors import CommandSeenError, IhsmError
from ihsm.testing import DeviceFault, DeviceFaults
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.fault_words import to_text
from ihsm_abi.faults import Fault


class WatchedFault(DeviceFault):
    """A fault that is asked whether it was hit before it goes."""

    is_missed = False
    """It has ended without a hit. A device that does not answer any more cannot tell."""

    def clear(self) -> None:
        """End it; errors as `DeviceFault.clear`."""
        with contextlib.suppress(IhsmError):
            self.is_missed = self.hits == 0 and self.fault.action != FaultAction.NEVER
        super().clear()


class WatchedFaults(DeviceFaults):
    """The faults of one test."""

    def __init__(self, device: EmbeddedDevice) -> None:
        """Errors as `DeviceFaults`."""
        super().__init__(device)
        self._watched: list[WatchedFault] = []
        self._complaints: list[str] = []

    def _make(self, number: int, fault: Fault) -> DeviceFault:
        made = WatchedFault(self.socket_path, number, fault)
        self._watched.append(made)
        return made

    def end(self) -> list[str]:
        """Clear all; what is to be said of them, a line each. The second time the same."""
        try:
            self.clear()
        except CommandSeenError as error:
            self._complaints.append(str(error))
        except IhsmError as error:
            self._complaints.append(f"faults cannot be cleared: {error}")
        missed = [fault for fault in self._watched if fault.is_missed]
        self._watched.clear()
        self._complaints += [f"fault {fault.number} was never hit: {to_text(fault.fault)}" for fault in missed]
        return self._complaints
