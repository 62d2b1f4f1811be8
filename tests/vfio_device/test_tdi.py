# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A function's interface between two threads: one locks, starts and stops, the other changes configuration space."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from ihsm.bus import VfioUserFunction
from ihsm.trace.replay import function_level_reset
from ihsm_abi.tdisp import InterfaceState
from ihsm_device.doe import NoObjects
from ihsm_device.server import Server
from ihsm_device.tdi import DeviceInterface, InterfaceStateError, NoSecureStreamError
from support.modules import ReversingModule
from support.trusted_io import BARS, SECURE, SELECTIVE_CONTROL, SELECTIVE_STATUS, STREAM, control, read32, write32
from support.waiting import HANG_S

ROUNDS: Final = 500
RESET_EVERY: Final = 16


def answering(interface: DeviceInterface) -> None:
    """What the thread of data objects does."""
    for _ in range(ROUNDS):
        interface.key(STREAM, keyed=True)
        with suppress(NoSecureStreamError, InterfaceStateError):
            interface.lock(STREAM)
            interface.start()
        assert len(interface.registers.ide) == 9
        interface.tear_down()
        interface.stop()
        interface.key(STREAM, keyed=False)


def test_changes_while_it_is_locked_and_stopped(socket_folder: Path) -> None:
    interfaces: list[DeviceInterface] = []

    def objects(_index: int, interface: DeviceInterface) -> NoObjects:
        interfaces.append(interface)
        return NoObjects()

    server = Server([socket_folder / "f.sock"], lambda index: ReversingModule(), make_objects=objects)
    server.start()
    try:
        with VfioUserFunction(socket_folder / "f.sock", timeout_s=HANG_S) as function:
            (interface,) = interfaces
            thread = threading.Thread(target=answering, args=(interface,))
            thread.start()
            number = 0
            while thread.is_alive():
                number += 1
                write32(function, SELECTIVE_CONTROL, control())
                write32(function, BARS, number << 12 & 0xFFFF_F000)
                assert read32(function, SELECTIVE_STATUS) in (0, SECURE)
                if number % RESET_EVERY == 0:
                    function_level_reset(function)
            thread.join()
            assert interface.state is InterfaceState.CONFIG_UNLOCKED
            write32(function, SELECTIVE_CONTROL, control())
            interface.key(STREAM, keyed=True)
            interface.lock(STREAM)
            write32(function, BARS, 0x8000_0000 ^ read32(function, BARS))
            assert interface.state is InterfaceState.ERROR
    finally:
        server.stop()
