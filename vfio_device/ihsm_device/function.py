# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""One PCI function without its transport: controller, queue engine and security module, over any host of the engine."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Final, Protocol

from ihsm_abi import logs
from ihsm_abi.entries import reader
from ihsm_abi.fault_actions import FaultAction, Resource
from ihsm_abi.faults import Fault
from ihsm_abi.hsm_queue import HSM_SQE, ControlKind, HsmStatus, SessionControl
from ihsm_abi.resources import ADMIN_QUEUE_ID, aes_queue_ids, hsm_queue_ids
from ihsm_device.admin import ControllerIdentity
from ihsm_device.commands import Command, Outcome, RingClass
from ihsm_device.controller import FunctionController, ResetModule
from ihsm_device.engine import Engine, KeyTable, PublishedTable
from ihsm_device.faults import FaultSet
from ihsm_device.hsm.command import HsmCommand, HsmCompletion, Lane
from ihsm_device.trace import Trace
from ihsm_device.version import VERSION

_log = logging.getLogger(__name__)

_SQE: Final = reader(HSM_SQE, "control", "session_id")
_CONTROLS: Final = [(ControlKind(control.kind), bool(control.id_valid)) for control in map(SessionControl, range(256))]
"""Kind and id-valid of every session control byte."""


class Module(ResetModule, Protocol):
    """The security module of a function (ihsm_device.hsm)."""

    @property
    def serial(self) -> int:
        """64-bit serial number of the function, never 0."""

    @property
    def bulk_table(self) -> KeyTable | None:
        """Keys of the fast path; None for a module without any."""

    @property
    def express(self) -> PublishedTable | None:
        """What the express lane may see; None: it carries out nothing."""

    @property
    def fips_approved(self) -> bool:
        """FIPS state that the fast path's service indicator reports."""

    @property
    def device_iv(self) -> bool:
        """True if approved GCM encryption takes an IV of the device's own."""

    def execute(self, command: HsmCommand) -> HsmCompletion:
        """Carry out a request; any thread, concurrently."""

    def flush(self, command: HsmCommand) -> HsmCompletion:
        """Close the session a process left behind (spec 02 B.5)."""

    def lane(self, message: bytes) -> Lane:
        """Which worker threads may execute a request."""

    def on_shortage(self, is_short_of: Callable[[Resource], bool]) -> None:
        """Ask so before something of a resource is taken: where none is left, the command is refused."""

    def status(self) -> dict[str, Any]:
        """State for the control socket; nothing secret."""


def _failure(status: HsmStatus) -> HsmCompletion:
    """A completion without message and session."""
    return HsmCompletion(b"", SessionControl(0), sc=status)


class Function:
    """One PCI function: the registers' controller, the rings' engine and the security module behind them."""

    def __init__(
        self,
        engine: Engine,
        module: Module,
        *,
        index: int = 0,
        resources: int = 1,
        bus_master: Callable[[], bool] = lambda: True,
        private_memory: Callable[[], int | None] = lambda: None,
        faults: Sequence[Fault] = (),
    ) -> None:
        """`index`: number of the function in its process, from 0; it reports controller id `index` + 1 as a VF does.

        `faults` are what it is told to do wrong from the start.
        """
        self.index = index
        self.engine = engine
        self.module = module
        if module.bulk_table is not None:
            engine.set_keys(module.bulk_table, fips=module.fips_approved, device_iv=module.device_iv)
        if module.express is not None:
            engine.set_express(module.express)
        identity = ControllerIdentity(module.serial, VERSION, index + 1)
        self.trace = Trace(engine, index, (ADMIN_QUEUE_ID, *hsm_queue_ids(resources), *aes_queue_ids(resources)))
        self.faults = FaultSet(engine, execute=self._execute_held, reset=self._reset_by_fault, trace=self.trace)
        self.controller = FunctionController(
            engine,
            module,
            identity,
            resources,
            bus_master=bus_master,
            private_memory=private_memory,
            faults=self.faults,
        )
        module.on_shortage(self._is_short_of)
        self.faults.begin(faults)

    def _is_short_of(self, resource: Resource) -> bool:
        """Whether a fault leaves none of it to who wants some now."""
        return self.faults.shown and self.faults.ask(FaultAction.EXHAUST_RESOURCE, part=resource) is not None

    def _reset_by_fault(self) -> None:
        self.trace.reset()
        self.controller.reset()

    def _execute_held(self, command: Command) -> None:
        if command.ring is RingClass.ADMIN:
            self.execute_admin(command)
        else:
            self.execute_hsm(command)

    def execute_admin(self, command: Command) -> None:
        """Execute and complete an admin command."""
        logs.concern(self.index)
        try:
            self.controller.execute_admin(command)
        except Exception:
            logs.failure(_log, "function %d: admin command %#04x failed", self.index, command.sqe[0])
            command.refuse()

    def lane(self, command: Command) -> Lane:
        """Which worker threads may execute an HSM command; a flush has no message and is always quick."""
        return self.module.lane(command.request) if command.request else Lane.FAST

    def execute_hsm(self, command: Command) -> None:
        """Execute and complete an HSM command; the completion of one whose queue has gone meanwhile is dropped."""
        logs.concern(self.index)
        if self.trace.messages:
            self.trace.request(command)
        if self._is_short_of(Resource.REQUESTS):
            self.refuse_hsm(command)
            return
        try:
            completion = self._call_module(command)
        except Exception:
            logs.failure(_log, "function %d: HSM command of queue %d failed", self.index, command.queue_id)
            completion = _failure(HsmStatus.INTERNAL_ERROR)
        outcome = self._post(command, completion)
        if outcome is not Outcome.POSTED and completion.rollback is not None:
            completion.rollback()
        if outcome is Outcome.DATA_FAILED:
            self._post(command, _failure(HsmStatus.DMA_ERROR))

    def refuse_hsm(self, command: Command) -> None:
        """Complete an HSM command for which there is no request buffer (spec 02 B.7)."""
        self._post(command, _failure(HsmStatus.INTERNAL_ERROR))

    def _call_module(self, command: Command) -> HsmCompletion:
        control, session_id = _SQE.unpack(command.sqe)
        kind, id_valid = _CONTROLS[control]
        request = HsmCommand(command.request, kind, id_valid, session_id)
        # Of the entries that the engine admits, a flush alone has no message.
        return self.module.execute(request) if command.request else self.module.flush(request)

    def _post(self, command: Command, completion: HsmCompletion) -> Outcome:
        if self.trace.messages:
            self.trace.response(command, completion.message)
        return self.engine.complete_hsm(
            command,
            completion.message,
            flags=completion.flags,
            session_id=completion.session_id,
            short_app_id=completion.short_app_id,
            sc=completion.sc,
        )

    def _queues(self) -> list[dict[str, Any]]:
        """State of every queue pair that exists, at least in part."""
        resources = self.controller.resources
        owned = (ADMIN_QUEUE_ID, *hsm_queue_ids(resources), *aes_queue_ids(resources))
        return [asdict(state) for queue_id in owned if (state := self.engine.queue(queue_id)) is not None]

    def status(self) -> dict[str, Any]:
        """Identity, registers, queues and counters of the function, and what the security module says of itself."""
        controller = self.controller.status()
        identity = self.controller.identity
        return {
            "function": self.index,
            "controller_id": identity.controller_id,
            "serial": f"{identity.serial:016X}",
            "firmware": identity.firmware,
            "resources": self.controller.resources,
            "registers": controller["registers"],
            "queues": self._queues(),
            "counters": {**controller["counters"], **self.engine.counters()},
            "module": self.module.status(),
        }
