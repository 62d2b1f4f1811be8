# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The driver model on a function, with a clock that stands still and commands that need no user memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np

from ihsm.bus.function import PciFunction
from ihsm_abi.admin import AdminOpcode
from ihsm_abi.aes_queue import AES_SQE
from ihsm_abi.hsm_queue import HSM_SQE, ControlKind, HsmOpcode, SessionControl
from ihsm_kmod.hsm.controller import Controller
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.hsm.queue_pool import QueuePool
from ihsm_kmod.kernel.clock import HZ, StillClock
from ihsm_kmod.kernel.kthread import KThread
from ihsm_kmod.kernel.report import Report
from ihsm_kmod.machine import Machine
from support.bent_function import BentFunction
from support.waiting import HANG_S, until

T = TypeVar("T")

BDF: Final = "0000:00:04.0"
COMMAND_TIMEOUT_S: Final = 6
GRACE_S: Final = 100 / HZ
ADMIN_TIMEOUT_S: Final = 30
NO_SESSION: Final = 9


@dataclass
class Driver:
    """A machine whose driver has one function."""

    machine: Machine
    function: BentFunction
    clock: StillClock

    @property
    def controller(self) -> Controller:
        controller = self.machine.kernel.pci.device(BDF).driver_data.controller
        assert isinstance(controller, Controller)
        return controller

    @property
    def reports(self) -> list[Report]:
        return self.machine.kernel.reports

    @property
    def probe_error(self) -> int:
        return self.machine.kernel.pci.probe_error(BDF)

    def hsm(self) -> Outcome:
        """A command that the device has nothing to do for: the flush of a session that there is not."""
        return self._execute(self.controller.hsm_pool, hsm_entry())

    def aes(self) -> Outcome:
        """A command that the device refuses."""
        return self._execute(self.controller.aes_pool, bytearray(AES_SQE.itemsize))

    def _execute(self, pool: QueuePool, sqe: bytearray) -> Outcome:
        return self.run(self.controller.execute, pool, sqe)

    def start_hsm(self) -> KThread:
        """The same on a thread; its `join` returns the outcome."""
        return self.start(self.controller.hsm_pool, hsm_entry())

    def start_aes(self) -> KThread:
        return self.start(self.controller.aes_pool, bytearray(AES_SQE.itemsize))

    def start(self, pool: QueuePool, sqe: bytearray) -> KThread:
        return self.machine.kernel.thread(lambda: self.controller.execute(pool, sqe), "app")

    def await_unheard(self, *queue_ids: int, count: int = 1) -> None:
        """Wait until so many commands in rings of silent queues have rung: hearing the queues again is too late."""
        unheard = self.function.unheard
        until(lambda: sum(unheard[queue] for queue in queue_ids) >= count, "the command is in the ring and has rung")

    def time_out(self) -> None:
        """Let the command time-out of the only command under way pass, and the grace that it is given then.

        The health monitor stops: it may be due when the command is, and would be taken for it.
        """
        self.stop_monitor()
        self.clock.expire(COMMAND_TIMEOUT_S)
        self.clock.expire(GRACE_S)

    def stop_monitor(self) -> None:
        """No look at CSTS in the middle of what a test compares, nor at a time when a command is due."""
        self.machine.kernel.run(self.machine.kernel.pci.device(BDF).driver_data.monitor.stop)

    def run(self, function: Callable[..., T], *args: object) -> T:
        """Call something of the driver."""
        return self.machine.kernel.run(function, *args)

    def says(self, text: str) -> bool:
        """Whether the log has it."""
        return text in self.machine.kernel.dmesg()

    def unbind(self) -> None:
        self.machine.kernel.pci.unbind(BDF)

    def bind(self) -> None:
        self.machine.kernel.pci.bind(BDF)


def hsm_entry() -> bytearray:
    """An HSM queue entry without data."""
    sqe = bytearray(HSM_SQE.itemsize)
    entry = np.frombuffer(sqe, HSM_SQE)
    entry["command"] = HsmOpcode.FLUSH_SESSION
    entry["control"] = SessionControl.of(kind=ControlKind.CLOSE, id_valid=1)
    entry["session_id"] = NO_SESSION
    return sqe


def commands_of(driver: Driver) -> list[tuple[AdminOpcode, int]]:
    """Admin commands since the last call: opcode and dw10."""
    commands, driver.function.admin = driver.function.admin, []
    return [(AdminOpcode(int(sqe["opc"])), int(sqe["dw10"])) for sqe in commands]


@contextmanager
def driver_on(
    function: PciFunction,
    quirks: Mapping[str, bool] | None = None,
    *,
    clock: StillClock | None = None,
    **parameters: int | bool,
) -> Iterator[Driver]:
    """The driver with a function of which all accesses are noted."""
    bent = function if isinstance(function, BentFunction) else BentFunction(function)
    clock = clock or StillClock(HANG_S)
    with Machine(bent, clock=clock, quirks=quirks or {}, **parameters) as machine:
        yield Driver(machine, bent, clock)
