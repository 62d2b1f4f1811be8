# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The controller: registers of BAR0 and the state machine behind them (spec 01 §2-§4, §14.1, §14.5, §14.8, §14.9).

It knows neither sockets nor the vfio-user library: registers are bytes at offsets, queues are the engine's, and what a
reset means to keys and sessions is the partition's affair.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, Protocol

from ihsm_abi.admin import AdminStatus
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.registers import NSSR_MAGIC, Aqa, Cap, Cc, Csts, Register
from ihsm_device.admin import AdminCommands, AdminError, AdminResult, ControllerIdentity
from ihsm_device.commands import Command, Outcome
from ihsm_device.engine import NoPointerError
from ihsm_device.faults import FaultHit, Faults, NoFaults
from ihsm_device.queues import QueueEngine
from ihsm_device.register_file import RegisterFile, registers_at

_log = logging.getLogger(__name__)

_SHOWN: Final = (
    Register.CAP, Register.VS, Register.CC, Register.CSTS, Register.AQA, Register.ASQ, Register.ACQ,
)  # fmt: skip
"""Registers that the status names."""


_SHARE: Final = (
    "give each of QEMU's memory backends share=on "
    "(-object memory-backend-memfd,id=m,size=...,share=on -machine memory-backend=m)"
)


class EnableState(Enum):
    """What has come of the last write of CC.EN (spec 01 §4.1)."""

    DISABLED = auto()
    """RDY is 0."""
    REFUSED = auto()
    """RDY is 0 and CFS is set: EN was, with admin queues that cannot be."""
    READY = auto()
    """RDY is 1."""
    COMING = auto()
    """RDY is 0: a fault keeps the controller from becoming ready."""
    LINGERING = auto()
    """RDY is 1, though the queues have ended: a fault keeps a disable or NSSR from its end."""


_CSTS: Final = {(bool(rdy), bool(cfs)): Csts.of(rdy=rdy, cfs=cfs) for rdy in (0, 1) for cfs in (0, 1)}
"""CSTS by RDY and CFS; drivers poll it."""


@dataclass(slots=True)
class _Delay:
    """What a fault waits for before the controller goes on."""

    hit: FaultHit
    reads: int
    """Reads of CSTS that have still to come."""
    due: float
    """Time on `time.monotonic`, too."""
    enable: bool = False
    """EN has been written as 1 meanwhile."""

    def over(self) -> bool:
        """Whether it ends with this read of CSTS."""
        if not self.hit.stands():
            return True
        if self.reads > 0:
            self.reads -= 1
            return False
        return time.monotonic() >= self.due


class ResetModule(Protocol):
    """What the resets of a function do to its security module (spec 04 §12)."""

    def nssr(self) -> None:
        """Subsystem reset: keys and credentials end, session ids await renegotiation."""

    def disable(self) -> None:
        """CC.EN 1 to 0, function level reset or device reset of a ready function."""

    def client_lost(self) -> None:
        """As `disable`, and the session ids are free again: nobody is left who could reopen them."""


class FunctionController:
    """Register file, enable/disable and resets of one function.

    Register accesses and resets come from the thread that owns the function, admin commands from worker threads; one
    lock keeps them apart, so that a command of a controller that has been disabled meanwhile acts on nothing.
    """

    def __init__(
        self,
        engine: QueueEngine,
        module: ResetModule,
        identity: ControllerIdentity,
        resources: int,
        *,
        bus_master: Callable[[], bool] = lambda: True,
        private_memory: Callable[[], int | None] = lambda: None,
        faults: Faults | None = None,
    ) -> None:
        """`resources`: 1 HSM and 2 AES queue pairs each; `bus_master` tells whether Bus Master Enable is set.

        `private_memory` tells an address of guest memory whose client writes to private copies, None if there is none;
        `faults` are what the function is told to do wrong.
        """
        self._faults = NoFaults() if faults is None else faults
        self.identity = identity
        self.resources = resources
        self._engine = engine
        self._module = module
        self._bus_master = bus_master
        self._private_memory = private_memory
        self._lock = threading.Lock()
        self._admin = AdminCommands(identity, resources, engine, self._lock, self._faults)
        self._registers = RegisterFile()
        self._state = EnableState.DISABLED
        self._delay: _Delay | None = None
        """Of the states COMING and LINGERING."""
        self._failed = False
        """CFS, by a fault."""
        self._bus_master_clear = 0
        self._zeros_told = False
        self._counters = dict.fromkeys(("enables", "enable_failures", "disables", "nssrs", "resets", "clients_lost"), 0)

    @property
    def csts(self) -> Csts:
        """CSTS as a read gives it: a dead admin queue shows as CFS."""
        match self._state:
            case EnableState.READY:
                return _CSTS[True, self._failed or self._engine.admin_stopped]
            case EnableState.LINGERING:
                return _CSTS[True, False]
            case EnableState.REFUSED:
                return _CSTS[False, True]
        return _CSTS[False, False]

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of BAR0 at `offset`; any width and alignment, reserved offsets read 0."""
        if self._faults.shown or self._delay is not None:
            registers = registers_at(offset, size)
            if self._faults.removed or self._faults.ask(FaultAction.ALL_ONES, registers=registers) is not None:
                return b"\xff" * size
            if Register.CAP in registers:
                self._see_cap()
            if Register.CSTS in registers:
                self._see_csts()
        csts = self.csts
        if (offset, size) == (Register.CSTS, Register.CSTS.width):
            return csts.to_bytes(size, "little")
        self._registers.set(Register.CSTS, csts)
        return self._registers.read(offset, size)

    def _see_cap(self) -> None:
        """CAP is read, which is nowhere looked at but here."""
        cap = Register.CAP.reset
        if (hit := self._faults.ask(FaultAction.WRONG_CAP_TO)) is not None:
            cap = Cap(cap).replace(to=int(hit.fault.parameters["to"]))
        self._registers.set(Register.CAP, cap)

    def _see_csts(self) -> None:
        """CSTS is read: what a fault has put off may be over, and one may be seen."""
        if self._delay is not None:
            with self._lock:
                if self._delay is not None and self._delay.over():
                    self._end_delay()
        if self._state is EnableState.READY and not self._failed:
            self._failed = self._faults.ask(FaultAction.SET_CFS) is not None

    def _end_delay(self) -> None:
        """What was written to EN meanwhile is done now; an NSSR left it 1, which enables nothing (spec 01 §14.9)."""
        coming, delay = self._state is EnableState.COMING, self._delay
        self._state, self._delay = EnableState.DISABLED, None
        if coming:
            self._start()
        elif delay is not None and delay.enable:
            self._enable()

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes of BAR0; a part of a register changes that part, as byte enables do (NSSR takes whole writes)."""
        faults = self._faults
        if faults.shown and (faults.removed or faults.gone(registers_at(offset, len(data)))):
            return
        with self._lock:
            for register, value in self._registers.write(offset, data):
                if register is Register.CC:
                    self._follow_enable(Cc(value))
                elif register is Register.NSSR and value == NSSR_MAGIC:
                    self._subsystem_reset()

    def _follow_enable(self, cc: Cc) -> None:
        """EN against RDY decides, at this write and at no other time (spec 01 §14.1, §14.9)."""
        ready = self._state is EnableState.READY
        if cc.en and not ready:
            if self._delay is None:
                self._enable()
            else:
                self._delay.enable = True
        elif not cc.en and ready:
            self._counters["disables"] += 1
            self._stop()
            self._module.disable()
            self._linger(FaultAction.NEVER_DISABLED)
        elif not cc.en:
            # an enable that failed: the driver's next ready-wait must not find CFS with RDY 0 (spec 01 §4.1)
            lingering = self._state is EnableState.LINGERING
            self._state, self._delay = EnableState.DISABLED, None
            if lingering:
                self._linger(FaultAction.NEVER_DISABLED)

    def _linger(self, action: FaultAction) -> None:
        """The controller has stopped, but a fault may leave RDY 1."""
        if (hit := self._faults.ask(action)) is not None:
            self._state, self._delay = EnableState.LINGERING, _Delay(hit, 0, math.inf)

    def _enable(self) -> None:
        """Become ready, at once or when a fault lets it, or say why not."""
        self._counters["enables"] += 1
        self._state = EnableState.DISABLED
        self._zeros_told = False
        aqa = Aqa(self._registers[Register.AQA])
        if not aqa.asqs or not aqa.acqs:
            self._counters["enable_failures"] += 1
            self._state = EnableState.REFUSED
            _log.error("enable refused: AQA is %#x, an admin queue needs at least 2 entries", aqa)
            return
        if not self._bus_master():
            self._bus_master_clear += 1
            if self._bus_master_clear == 1:
                _log.warning("controller enabled while Bus Master Enable is clear; memory is used all the same")
        if (private := self._private_memory()) is not None:
            self._refuse_memory(f"the client writes to private copies of its memory at {private:#x} (share=off)")
            return
        if (hit := self._faults.ask(FaultAction.NEVER_READY)) is not None:
            self._state, self._delay = EnableState.COMING, _Delay(hit, 0, math.inf)
        elif (hit := self._faults.ask(FaultAction.LATE_READY)) is not None:
            parameters = hit.fault.parameters
            due = time.monotonic() + int(parameters.get("ms", 0)) / 1000
            self._state, self._delay = EnableState.COMING, _Delay(hit, int(parameters.get("reads", 0)), due)
        else:
            self._start()

    def _start(self) -> None:
        """Latch ASQ and ACQ and become ready, if memory is there."""
        aqa = Aqa(self._registers[Register.AQA])
        try:
            self._engine.enable_admin(
                self._registers[Register.ASQ], self._registers[Register.ACQ], aqa.asqs + 1, aqa.acqs + 1
            )
        except NoPointerError as error:
            self._refuse_memory(str(error))
            return
        self._state = EnableState.READY
        _log.info("enabled: admin queues of %d and %d entries", aqa.asqs + 1, aqa.acqs + 1)

    def _refuse_memory(self, why: str) -> None:
        self._counters["enable_failures"] += 1
        _log.error("enable refused: %s; the client's memory is not shared: %s", why, _SHARE)

    def memory_plugged_in(self) -> None:
        """The client has mapped memory of another file; of a ready controller it may be too late to refuse it."""
        if self._state is EnableState.READY and (private := self._private_memory()) is not None:
            _log.error(
                "the client writes to private copies of memory at %#x that it has plugged in (share=off), where the "
                "device sees zeros and the client no answers: %s",
                private,
                _SHARE,
            )

    def _stop(self) -> None:
        """Queues end; RDY and CFS change together (spec 01 §4.1)."""
        self._engine.disable()
        self._state = EnableState.DISABLED
        self._failed = False
        _log.info("disabled")

    def _subsystem_reset(self) -> None:
        """NSSR: CC.EN stays as it is; with RDY 0 only the partition is concerned (spec 01 §14.9)."""
        self._counters["nssrs"] += 1
        ready = self._state in (EnableState.READY, EnableState.LINGERING)
        if ready:
            self._stop()
            self._delay = None
        self._module.nssr()
        if ready:
            self._linger(FaultAction.NEVER_RESET)

    def reset(self) -> None:
        """Device reset or function level reset: registers, queues and MSI-X as at power-on (spec 01 §14.8)."""
        with self._lock:
            self._counters["resets"] += 1
            was_ready = self._state is EnableState.READY
            self._reset_registers()
            if was_ready:
                self._module.disable()

    def stop_interface(self) -> None:
        """Queues and partition end, as the interface of trusted I/O is stopped or fails (spec 06 §2.4); EN stays."""
        with self._lock:
            if self._state in (EnableState.READY, EnableState.LINGERING):
                self._stop()
            self._state, self._delay = EnableState.DISABLED, None
            self._module.disable()

    def client_lost(self) -> None:
        """The client's connection has ended (spec 01 §14.9)."""
        with self._lock:
            self._counters["clients_lost"] += 1
            self._reset_registers()
            self._module.client_lost()

    def _reset_registers(self) -> None:
        self._engine.reset()
        self._registers.reset()
        self._state, self._delay, self._failed = EnableState.DISABLED, None, False

    def execute_admin(self, command: Command) -> None:
        """Run an admin command that was pulled from the ring and complete it; one of a past controller is dropped."""
        with self._lock:
            if not command.live:
                return
            if not any(command.sqe) and not self._zeros_told:
                self._zeros_told = True
                _log.warning(
                    "an admin command is all zeros: does the client write to private copies of its memory? %s", _SHARE
                )
            try:
                status, result = AdminStatus.SUCCESS, self._admin.execute(command.sqe)
            except AdminError as error:
                status, result = error.status, AdminResult()
        outcome = command.engine.complete_admin(command, result.dw0, status, result.data)
        if outcome is Outcome.DATA_FAILED:
            status = AdminStatus.DATA_TRANSFER_ERROR
            command.engine.complete_admin(command, 0, status)
        _log.debug("admin command %#04x: %s", command.sqe[0], status.name)

    def status(self) -> dict[str, Any]:
        """Registers and counters for the control socket."""
        with self._lock:
            registers = {register.name: self._registers[register] for register in _SHOWN}
            return {
                "registers": registers | {Register.CSTS.name: int(self.csts)},
                "counters": {**self._counters, "bus_master_clear": self._bus_master_clear},
            }
