# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A function's interface of trusted I/O and its IDE streams, whose state is in C (native/tdi.h)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ihsm_abi.ide import (
    IDE_CAPABILITY_OFFSET,
    IDE_LINK_CONTROL_OFFSET,
    IDE_LINK_STATUS_OFFSET,
    IDE_REGISTER_BYTES,
    IDE_SELECTIVE_CONTROL_OFFSET,
    IDE_SELECTIVE_STATUS_OFFSET,
    IdeLinkControl,
    IdeSelectiveControl,
    IdeStreamStatus,
    StreamState,
)
from ihsm_abi.tdisp import InterfaceState
from ihsm_device import _native
from ihsm_device._native import ffi, lib
from ihsm_device.lifetimes import free_with

HELD: Final = frozenset({InterfaceState.CONFIG_LOCKED, InterfaceState.RUN})
"""States in which somebody relies on the interface."""


class NoSecureStreamError(Exception):
    """No stream of the id is enabled, in traffic class 0 and secure."""


class InterfaceStateError(Exception):
    """The interface is in another state than it must be."""


@dataclass(frozen=True, slots=True)
class Registers:
    """What of configuration space matters to an interface."""

    msix_control: int
    bars: tuple[int, ...]
    ide: tuple[int, ...]
    """Of the IDE capability, from behind its header on."""

    def stream_state(self, status_offset: int) -> StreamState:
        """State in a status register at an offset of the capability."""
        return StreamState(IdeStreamStatus(self._at(status_offset)).state)

    @property
    def named_streams(self) -> frozenset[int]:
        """Ids in the control registers of both streams; none as long as both registers are as at power-on."""
        link = IdeLinkControl(self._at(IDE_LINK_CONTROL_OFFSET))
        selective = IdeSelectiveControl(self._at(IDE_SELECTIVE_CONTROL_OFFSET))
        return frozenset({link.stream_id, selective.stream_id} if link or selective else ())

    def _at(self, offset: int) -> int:
        return self.ide[(offset - IDE_CAPABILITY_OFFSET) // IDE_REGISTER_BYTES]


class DeviceInterface:
    """The interface of one function. Every method may be called from any thread."""

    def __init__(self) -> None:
        """Unlocked, without keys.

        Raises:
            MemoryError: there is none left.
        """
        self.handle = lib.ihsm_tdi_new()
        if self.handle == ffi.NULL:
            raise MemoryError
        free_with(self, lib.ihsm_tdi_free, self.handle)
        self.stop_function: Callable[[], None] = lambda: None
        """Ends queues and partition of the function, whatever they are at."""

    @property
    def state(self) -> InterfaceState:
        """As it is."""
        return self._look()[0]

    @property
    def registers(self) -> Registers:
        """As they stand."""
        return self._look()[1]

    def lock(self, stream: int) -> Registers:
        """From unlocked to locked; the registers then.

        Raises:
            NoSecureStreamError: there is no secure stream of that id.
            InterfaceStateError: it is not unlocked.
        """
        found = _new_registers()
        result = lib.ihsm_tdi_lock(self.handle, stream, found)
        if result == -errno.ENOLINK:
            raise NoSecureStreamError
        if result < 0:
            raise InterfaceStateError
        return _registers(found)

    def start(self) -> None:
        """From locked to running; raises InterfaceStateError if it is not locked."""
        if lib.ihsm_tdi_start(self.handle) < 0:
            raise InterfaceStateError

    def stop(self) -> None:
        """To unlocked, with nothing left of what the function was doing, or held."""
        self.stop_function()
        lib.ihsm_tdi_stop(self.handle)

    def tear_down(self) -> None:
        """Stop it if it is locked or runs."""
        if self.state in HELD:
            self.stop()

    def key(self, stream: int, *, keyed: bool) -> None:
        """Whether streams of an id have a whole set of keys; what relied on a stream that is not secure now fails."""
        if lib.ihsm_tdi_key(self.handle, stream, keyed):
            self.stop_function()

    def status(self) -> dict[str, str]:
        """For the control socket."""
        state, registers = self._look()
        return {
            "interface": state.name,
            "link_stream": registers.stream_state(IDE_LINK_STATUS_OFFSET).name,
            "selective_stream": registers.stream_state(IDE_SELECTIVE_STATUS_OFFSET).name,
        }

    def _look(self) -> tuple[InterfaceState, Registers]:
        found = _new_registers()
        return InterfaceState(lib.ihsm_tdi_look(self.handle, found)), _registers(found)


def _new_registers() -> _native.ihsm_tdi_registers_pointer:
    return ffi.new("struct ihsm_tdi_registers *")


def _registers(found: _native.ihsm_tdi_registers_pointer) -> Registers:
    return Registers(int(found.msix_control), tuple(map(int, found.bars)), tuple(map(int, found.ide)))
