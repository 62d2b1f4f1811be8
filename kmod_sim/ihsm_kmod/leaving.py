# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The end of a machine whose device has gone: its driver waits for answers, and nobody else need do so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ihsm.bus.function import PciFunction
from ihsm.errors import BusError
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Csts, Register
from ihsm_kmod.machine import Machine

_PATIENCE_S: Final = 1.0
"""Real time that a driver has to leave a device which answers."""
_LOOK_S: Final = 0.01
_STEP_S: Final = 30.0
"""How far the clock moves at a time: what an admin command waits for, and a removal has two for each queue."""


@contextmanager
def hurried(machine: Machine, function: PciFunction) -> Iterator[None]:
    """Within the block time passes faster for the machine when its function will answer no more."""
    over = threading.Event()
    helper = threading.Thread(target=_hurry, args=(machine, function, over), daemon=True)
    helper.start()
    try:
        yield
    finally:
        over.set()
        helper.join()


def _hurry(machine: Machine, function: PciFunction, over: threading.Event) -> None:
    wait_s = _PATIENCE_S
    while not over.wait(wait_s):
        wait_s = _LOOK_S
        if machine.kernel.is_idle and not _answers(function):
            machine.clock.advance(_STEP_S)


def _answers(function: PciFunction) -> bool:
    """Whether the controller is enabled: what one that is not has been told is lost."""
    try:
        value = function.read_bar(Bar.REGISTERS, Register.CSTS, Register.CSTS.width)
    except BusError:
        return False
    status = Csts(value)
    return bool(status.rdy) and value != (1 << 8 * Register.CSTS.width) - 1
