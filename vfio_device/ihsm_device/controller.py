# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The controller: registers of BAR0 and the state machine behind them (spec 01 §2-§4, §14.1, §14.5, §14.8, §14.9).

It knows neither sockets nor the vfio-user library: registers are bytes at offsets, queues are the engine's, and what a
reset means to keys and sessions is the partition's affair.
"""

from __future__ import annotations

import logging
import struct
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol

from ihsm_abi.admin import AdminStatus
from ihsm_abi.registers import (
    AQA_MASK,
    CAP_VALUE,
    FWCAP_VALUE,
    NSSR_MAGIC,
    REGISTER_BYTES,
    VS_VALUE,
    Aqa,
    Cc,
    Csts,
    Register,
)
from ihsm_device.admin import AdminCommands, AdminError, AdminResult, ControllerIdentity
from ihsm_device.engine import Command, NoPointerError, Outcome
from ihsm_device.queues import QueueEngine

_log = logging.getLogger(__name__)

_PAGE_MASK: Final = ~0xFFF & (1 << 64) - 1
"""ASQ and ACQ hold page addresses: their low 12 bits do not exist."""


class Partition(Protocol):
    """What the resets of a function do to its security module (spec 04 §12)."""

    def nssr(self) -> None:
        """Subsystem reset: keys and credentials end, session ids await renegotiation."""

    def disable(self) -> None:
        """CC.EN 1 to 0, function level reset or device reset of a ready function."""

    def client_lost(self) -> None:
        """As `disable`, and the session ids are free again: nobody is left who could reopen them."""


class Controller:
    """Register file, enable/disable and resets of one function.

    Register accesses and resets come from the thread that owns the function, admin commands from worker threads; one
    lock keeps them apart, so that a command of a controller that has been disabled meanwhile acts on nothing.
    """

    def __init__(
        self,
        engine: QueueEngine,
        partition: Partition,
        identity: ControllerIdentity,
        resources: int,
        *,
        bus_master: Callable[[], bool] = lambda: True,
    ) -> None:
        """`resources`: 1 HSM and 2 AES queue pairs each; `bus_master` tells whether Bus Master Enable is set."""
        self.identity = identity
        self.resources = resources
        self._engine = engine
        self._partition = partition
        self._bus_master = bus_master
        self._lock = threading.Lock()
        self._admin = AdminCommands(identity, resources, engine, self._lock)
        self._cc = Cc(0)
        self._csts = Csts(0)
        self._aqa = Aqa(0)
        self._asq = 0
        self._acq = 0
        self._bus_master_clear = 0
        self._counters = dict.fromkeys(("enables", "enable_failures", "disables", "nssrs", "resets", "clients_lost"), 0)

    @property
    def csts(self) -> Csts:
        """CSTS as a read gives it: a dead admin queue shows as CFS."""
        failed = self._csts.rdy and self._engine.admin_stopped
        return self._csts.replace(cfs=1) if failed else self._csts

    def read(self, offset: int, size: int) -> bytes:
        """Bytes of BAR0 at `offset`; any width and alignment, reserved offsets read 0."""
        if (offset, size) == (Register.CSTS, 4):
            return self.csts.to_bytes(4, "little")
        image = struct.pack(
            "<QI8xIIIIIQQ",
            CAP_VALUE, VS_VALUE, self._cc, FWCAP_VALUE, self.csts, 0, self._aqa, self._asq, self._acq,
        )  # fmt: skip
        return image[offset : offset + size].ljust(size, b"\0")

    def write(self, offset: int, data: bytes) -> None:
        """Write bytes of BAR0; a part of a register changes that part, as byte enables do (NSSR takes whole writes)."""
        with self._lock:
            for register, width in REGISTER_BYTES.items():
                low, high = max(offset, register), min(offset + len(data), register + width)
                if low >= high:
                    continue
                merged = bytearray(self._stored(register).to_bytes(width, "little"))
                merged[low - register : high - register] = data[low - offset : high - offset]
                self._write_register(register, int.from_bytes(merged, "little"))

    def _stored(self, register: Register) -> int:
        """What a partial write leaves unchanged."""
        match register:
            case Register.CC:
                return self._cc
            case Register.AQA:
                return self._aqa
            case Register.ASQ:
                return self._asq
            case Register.ACQ:
                return self._acq
        return 0

    def _write_register(self, register: Register, value: int) -> None:
        match register:
            case Register.CC:
                self._write_cc(Cc(value))
            case Register.NSSR:
                if value == NSSR_MAGIC:
                    self._subsystem_reset()
            case Register.AQA:
                self._aqa = Aqa(value & AQA_MASK)
            case Register.ASQ:
                self._asq = value & _PAGE_MASK
            case Register.ACQ:
                self._acq = value & _PAGE_MASK

    def _write_cc(self, cc: Cc) -> None:
        """EN against RDY decides, at this write and at no other time (spec 01 §14.1, §14.9)."""
        self._cc = cc
        if cc.en and not self._csts.rdy:
            self._enable()
        elif not cc.en and self._csts.rdy:
            self._counters["disables"] += 1
            self._stop()
            self._partition.disable()
        elif not cc.en:
            # an enable that failed: the driver's next ready-wait must not find CFS with RDY 0 (spec 01 §4.1)
            self._csts = Csts(0)

    def _enable(self) -> None:
        """Latch AQA, ASQ and ACQ and become ready, or say why not."""
        self._counters["enables"] += 1
        self._csts = Csts(0)
        if not self._aqa.asqs or not self._aqa.acqs:
            self._counters["enable_failures"] += 1
            self._csts = Csts.of(cfs=1)
            _log.error("enable refused: AQA is %#x, an admin queue needs at least 2 entries", self._aqa)
            return
        if not self._bus_master():
            self._bus_master_clear += 1
            if self._bus_master_clear == 1:
                _log.warning("controller enabled while Bus Master Enable is clear; memory is used all the same")
        try:
            self._engine.enable_admin(self._asq, self._acq, self._aqa.asqs + 1, self._aqa.acqs + 1)
        except NoPointerError as error:
            self._counters["enable_failures"] += 1
            _log.error(
                "enable refused: %s; the client's memory is not shared: give QEMU's memory backend share=on "
                "(-object memory-backend-memfd,id=m,size=...,share=on -machine memory-backend=m)",
                error,
            )
            return
        self._csts = Csts.of(rdy=1)
        _log.info("enabled: admin queues of %d and %d entries", self._aqa.asqs + 1, self._aqa.acqs + 1)

    def _stop(self) -> None:
        """Queues end; RDY and CFS change together (spec 01 §4.1)."""
        self._engine.disable()
        self._csts = Csts(0)
        _log.info("disabled")

    def _subsystem_reset(self) -> None:
        """NSSR: CC.EN stays as it is; with RDY 0 only the partition is concerned (spec 01 §14.9)."""
        self._counters["nssrs"] += 1
        if self._csts.rdy:
            self._stop()
        self._partition.nssr()

    def reset(self) -> None:
        """Device reset or function level reset: registers, queues and MSI-X as at power-on (spec 01 §14.8)."""
        with self._lock:
            self._counters["resets"] += 1
            was_ready = self._csts.rdy
            self._reset_registers()
            if was_ready:
                self._partition.disable()

    def client_lost(self) -> None:
        """The client's connection has ended (spec 01 §14.9)."""
        with self._lock:
            self._counters["clients_lost"] += 1
            self._reset_registers()
            self._partition.client_lost()

    def _reset_registers(self) -> None:
        self._engine.reset()
        self._cc, self._csts, self._aqa = Cc(0), Csts(0), Aqa(0)
        self._asq = self._acq = 0

    def fail(self) -> None:
        """Report a fatal error: CSTS.CFS until the controller is disabled or reset."""
        with self._lock:
            self._csts = self._csts.replace(cfs=1)

    def execute_admin(self, command: Command) -> None:
        """Run an admin command that was pulled from the ring and complete it; one of a past controller is dropped."""
        with self._lock:
            if not command.live:
                return
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
            return {
                "registers": {
                    "CAP": int(CAP_VALUE), "VS": int(VS_VALUE), "CC": int(self._cc), "CSTS": int(self.csts),
                    "AQA": int(self._aqa), "ASQ": self._asq, "ACQ": self._acq,
                },
                "counters": {**self._counters, "bus_master_clear": self._bus_master_clear},
            }  # fmt: skip
