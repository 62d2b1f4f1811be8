# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The driver model on a device that is told to do something wrong, and what programs see of it.

The order is always the same: a fault is added, a command sent, the fault's hit awaited, the clock moved. No timer but
those of commands runs, unless a test starts the health monitor: two that are due at one moment could be mistaken.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ihsm.bus import PciFunction, VfioUserFunction
from ihsm.testing import DeviceFault, DeviceFaults
from ihsm_abi.admin import AdminOpcode
from ihsm_abi.ddi import DdiStatus
from ihsm_abi.pci import Bar
from ihsm_abi.registers import Register
from ihsm_abi.resources import ADMIN_QUEUE_ID
from ihsm_abi.uapi import AbortType, ControllerState, InternalCode
from ihsm_kmod.hsm.execute import Outcome
from ihsm_kmod.hsm.queue_pool import QueuePool
from ihsm_kmod.kernel.kthread import KThread
from support.hsm_driver import ADMIN_TIMEOUT_S, COMMAND_TIMEOUT_S, GRACE_S, Driver, commands_of, driver_on
from support.hsm_program import Answer, ask, extended, program, reset
from support.ioctls import Caller, Result
from support.process import ServeProcess
from support.waiting import HANG_S, until

HSM_QUEUE: Final = 1
ABORTED: Final = (0x04000002, errno.EAGAIN)
"""Extended status and errno of an HSM command that was aborted."""
NOT_READY: Final = (10, errno.EAGAIN)
"""Those of one that found no controller."""
LOST: Final = Outcome(InternalCode.ABORTED, None, errno.EAGAIN)
"""Of a command that was aborted, inside the driver."""
READY_WAIT_S: Final = 11
"""Longer than (TO + 1) x 500 ms with TO 20."""
BRING_UP: Final = [
    AdminOpcode.IDENTIFY,
    AdminOpcode.SET_FEATURES,
    AdminOpcode.CREATE_CQ,
    AdminOpcode.CREATE_SQ,
    AdminOpcode.SET_FEATURES,
    AdminOpcode.CREATE_CQ,
    AdminOpcode.CREATE_SQ,
    AdminOpcode.CREATE_CQ,
    AdminOpcode.CREATE_SQ,
    AdminOpcode.GET_FEATURES,
]
"""Of a function with one resource."""


def level_1(queue: int = HSM_QUEUE, slots: int = 16) -> list[tuple[AdminOpcode, int]]:
    """Admin commands of a level-1 abort, with dw10."""
    return [(AdminOpcode.DELETE_SQ, queue), (AdminOpcode.CREATE_SQ, slots - 1 << 16 | queue)]


@dataclass
class Flow:
    """A driver, its device's faults, and threads of programs."""

    driver: Driver
    faults: DeviceFaults
    threads: ThreadPoolExecutor

    @cached_property
    def caller(self) -> Caller:
        """A program with the node open."""
        return program(self.driver)

    def admin(self) -> list[tuple[AdminOpcode, int]]:
        """Admin commands since the last call: opcode and dw10."""
        return commands_of(self.driver)

    def opcodes(self) -> list[AdminOpcode]:
        """The same without dw10."""
        return [opcode for opcode, _ in self.admin()]

    def counter(self, path: str) -> int:
        """A counter in sysfs, such as `global/total_lvl1_aborts`."""
        return int(self.driver.machine.sysfs(path))

    # Faults.

    def on_admin(self, action: str, opcode: AdminOpcode, **values: int | str) -> DeviceFault:
        """Have the device do something wrong with admin commands of a kind."""
        return self.faults.add(action, queue=ADMIN_QUEUE_ID, opcode=int(opcode), **values)

    # Commands.

    def ask(self) -> Answer:
        """A session ioctl that needs no session."""
        return ask(self.caller)

    def start_ask(self) -> Future[Answer]:
        """The same on a thread of its own."""
        return self.threads.submit(self.ask)

    def start_reset(self, kind: AbortType) -> Future[Result]:
        """The reset ioctl on a thread of its own."""
        return self.threads.submit(reset, program(self.driver), kind)

    def lose(self, action: str = "drop-completion", **values: int | str) -> Future[Answer]:
        """An HSM command whose answer the device does not give; it is with the device when this returns."""
        hit = self.faults.add(action, queue=HSM_QUEUE, count=1, **values)
        lost = self.start_ask()
        hit.wait()
        return lost

    def lose_aes(self, action: str = "drop-completion", queue: int = 256, **values: int | str) -> KThread:
        """The same for an AES queue; the command is one that the device refuses."""
        hit = self.faults.add(action, queue=queue, count=1, **values)
        lost = self.driver.start_aes()
        hit.wait()
        return lost

    # Time.

    def time_out(self, commands: int = 1) -> None:
        """Let the time-out of commands pass that began at the same time, and the grace that the first is given then."""
        before = self._timed_out()
        self.driver.clock.expire(COMMAND_TIMEOUT_S, commands)
        # One that has not looked at the clock when the first has been aborted would not know that its time is up.
        until(lambda: self._timed_out() == before + commands, "all know that their time is up")
        self.driver.clock.expire(GRACE_S)

    def _timed_out(self) -> int:
        """How many commands have timed out since the controller was brought up."""
        return sum(queue.perf.timed_out for pool in self._pools() for queue in pool.queues)

    def time_out_admin(self, hit: DeviceFault, hits: int = 1) -> None:
        """Wait until the device does not answer an admin command, and let its time-out pass."""
        hit.wait(hits)
        self.driver.clock.expire(ADMIN_TIMEOUT_S)

    def time_out_ready(self, hit: DeviceFault, hits: int = 1) -> None:
        """Wait until the driver looks in vain for a change of RDY, and let the longest such look pass."""
        hit.wait(hits)
        until(self._polls, "the driver polls CSTS")
        self.driver.clock.advance(READY_WAIT_S)

    def _polls(self) -> bool:
        """Whether its last accesses were two looks at CSTS: its deadline is set before the first."""
        last = self.driver.function.accesses[-2:]
        return [(one.op, one.bar, one.offset) for one in last] == [("read", Bar.REGISTERS, Register.CSTS)] * 2

    # Ends.

    def works(self) -> None:
        """See that HSM and AES commands are answered, over every queue."""
        answer = self.ask()
        assert (answer.error, answer.header.status) == (0, DdiStatus.Success)
        for pool in self._pools():
            for _ in pool.queues:
                outcome = self.driver.hsm() if pool is self.driver.controller.hsm_pool else self.driver.aes()
                assert outcome.error == 0
            assert not [queue.id for queue in pool.queues if queue.tags.outstanding()]
        assert self.driver.controller.state is ControllerState.READY

    def _pools(self) -> list[QueuePool]:
        controller = self.driver.controller
        return [controller.hsm_pool, controller.aes_pool]

    @contextmanager
    def anew(self) -> Iterator[None]:
        """In the block the controller is brought up once more, by a level-2 abort that succeeds."""
        before = self.driver.controller.entropy
        self.admin()
        yield
        sent = self.opcodes()
        assert sent[-len(BRING_UP) :] == BRING_UP
        assert self.driver.controller.entropy != before
        assert self.counter("global/total_lvl2_aborts") == 0, "all counters begin anew"
        self.works()

    @contextmanager
    def in_vain(self) -> Iterator[None]:
        """In the block a level-2 abort fails; nothing but another bind helps then."""
        yield
        assert self.driver.controller.state is ControllerState.NOT_INITIALIZED
        assert extended(self.ask()) == NOT_READY
        self.driver.function.take()
        refused = reset(self.caller)
        assert (refused.error, int(refused.answer["abort_sts"])) == (errno.EINVAL, 2)
        assert not self.driver.function.take(), "the device is let alone"

    def is_bound_again(self) -> None:
        """See that unbind and bind bring back what a failed recovery has left."""
        self.faults.clear()
        self.driver.unbind()
        self.driver.bind()
        self.driver.stop_monitor()
        self.__dict__.pop("caller", None)
        node = self.driver.machine.kernel.vfs.listdir("/dev")[0]
        self.caller = program(self.driver, node=f"/dev/{node}")
        self.works()


def answers(*lost: Future[Answer]) -> list[tuple[int, int]]:
    """Extended status and errno of commands, when they have ended."""
    return [extended(one.result(HANG_S)) for one in lost]


@contextmanager
def flow_on(
    server: ServeProcess,
    quirks: Mapping[str, bool] | None = None,
    *,
    monitor: bool = False,
    seen_by: Callable[[PciFunction], PciFunction] = lambda function: function,
    **parameters: int | bool,
) -> Iterator[Flow]:
    """The driver with the server's function, which `seen_by` may put another in front of.

    Of the health monitor nothing is seen unless `monitor` is given.

    What ends last are the programs: the end of the machine is theirs, should they wait for a device.
    """
    with (
        ThreadPoolExecutor(8) as threads,
        VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function,
        driver_on(seen_by(function), quirks, clock=None, **parameters) as driver,
        DeviceFaults(server.paths[0]) as faults,
    ):
        assert driver.probe_error == 0, driver.machine.kernel.dmesg()
        if not monitor:
            driver.stop_monitor()
        commands_of(driver)
        yield Flow(driver, faults, threads)
