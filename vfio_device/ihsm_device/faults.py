# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The faults that one function is told to show (ihsm_abi.faults), whoever its client is.

Which events they hit is decided in C (native/inject.h), for registers too, so that each hit is counted once and in one
place. One thread, which begins with the first fault, does what they put off and tells of hits.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ihsm_abi import logs
from ihsm_abi.fault_actions import DmaPart, FaultAction, FaultError, Resource
from ihsm_abi.fault_table import IDENTIFY_FIELDS
from ihsm_abi.fault_words import to_text
from ihsm_abi.faults import Fault, StandingFault
from ihsm_abi.registers import Register
from ihsm_device._native import ffi, lib
from ihsm_device.commands import Command, RingClass
from ihsm_device.engine import Engine
from ihsm_device.process_pause import pause
from ihsm_device.trace import Trace

_log = logging.getLogger(__name__)

_ANY: Final = -1
_ACTIONS: Final = {action: int(getattr(lib, f"IHSM_ACTION_{action.name}")) for action in FaultAction}
_PARTS: Final[dict[str, int]] = {part: int(getattr(lib, f"IHSM_PART_{part.name}")) for part in DmaPart}
_NAMED_PARTS: Final[dict[str, int]] = {
    name: 1 << bit for names in (("hsm", "aes"), Resource, IDENTIFY_FIELDS) for bit, name in enumerate(names)
}
"""What events have besides parts of a command, by bit: numbers of queues, resources, fields of IDENTIFY."""
_REGISTERS: Final = {register: 1 << number for number, register in enumerate(Register)}


_TOLD_WHEN_OVER: Final = frozenset((FaultAction.RESET_FUNCTION, FaultAction.REMOVE_FUNCTION, FaultAction.PAUSE_PROCESS))
"""Actions whose hits count when they have had their effect."""
_ONCE: Final = frozenset((FaultAction.SPURIOUS_INTERRUPT, FaultAction.REMOVE_FUNCTION, FaultAction.PAUSE_PROCESS))
"""Actions that are taken once, by the clock."""
_HIT_BY_STARTING: Final = frozenset((FaultAction.WRONG_BAR_SIZE, FaultAction.WRONG_VECTORS))
"""Actions that the device takes once, before anybody looks."""


class TooManyFaultsError(Exception):
    """A function shows so many faults that there is no room for another."""


class UnknownFaultError(LookupError):
    """No fault has this id, or has it any more."""


@dataclass(frozen=True, slots=True)
class FaultHit:
    """A fault that hits an event."""

    fault: Fault
    stands: Callable[[], bool]
    """Whether the fault is still there, and its time not over."""


class Faults(Protocol):
    """What a part of the device asks before it does what a fault may hit."""

    @property
    def shown(self) -> bool:
        """Whether there is any fault, so that asking is worth while."""

    def ask(
        self, action: FaultAction, *, registers: frozenset[Register] = ..., opcode: int = ..., part: str = ...
    ) -> FaultHit | None:
        """The fault with that action that hits an event, if one does.

        `part` is what the event is about: "hsm" or "aes", a `Resource`, a field of IDENTIFY.
        """

    @property
    def removed(self) -> bool:
        """Whether the function is gone, as if it had been pulled out."""

    def gone(self, registers: frozenset[Register]) -> bool:
        """Whether the registers would be read as ones now; no fault is hit by the question."""


class NoFaults:
    """A device that does everything right."""

    shown = False
    removed = False

    def ask(
        self, action: FaultAction, *, registers: frozenset[Register] = frozenset(), opcode: int = _ANY, part: str = ""
    ) -> FaultHit | None:
        """None."""
        return None

    def gone(self, registers: frozenset[Register]) -> bool:
        """False."""
        return False


class FaultSet:
    """The faults of one function; any thread may call any method."""

    def __init__(
        self,
        engine: Engine,
        *,
        execute: Callable[[Command], None] = lambda command: None,
        reset: Callable[[], None] = lambda: None,
        trace: Trace | None = None,
    ) -> None:
        """`execute` carries out a command that was held; `reset` resets the function, with its mutex held.

        `trace` is told of faults that come and go.
        """
        self._engine = engine
        self._execute = execute
        self._reset = reset
        self._trace = trace
        self._lock = threading.Lock()
        self.running = threading.Lock()
        """Held by whoever no pause may stop half-way."""
        self._faults: dict[int, Fault] = {}
        self._held: list[tuple[int, Command]] = []
        self._callbacks: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self._actions: frozenset[FaultAction] = frozenset()
        """Actions of the faults that are there."""
        self._over: dict[int, int] = {}
        """By fault of `_TOLD_WHEN_OVER`: how many of its hits have had their effect."""
        self._is_closing = False
        self.shown = False
        self.removed = False
        engine.hold = self._hold

    # -- whoever gives and takes faults

    def add(self, fault: Fault) -> int:
        """Show a fault from now on, until it is cleared; its id, which no other fault of the function ever gets.

        Raises:
            FaultError: a device can have it from its start alone.
            TooManyFaultsError: there is no room.
        """
        if fault.spec.at_start_only:
            raise FaultError("action", f"{fault.action} is possible from the start alone: ihsm serve --faults")
        return self._add(fault)

    def begin(self, faults: Sequence[Fault]) -> None:
        """Show faults before there is any client, those among them that last as long as the device too.

        Raises:
            TooManyFaultsError: there is no room.
        """
        for fault in faults:
            self._add(fault)

    def _add(self, fault: Fault) -> int:
        with self._lock:
            self._start()
            number = int(lib.ihsm_engine_fault_add(self._engine.handle, _native(fault)))
            if number == -errno.ENOSPC:
                raise TooManyFaultsError(f"the function shows {len(self._faults)} faults already")
            self._faults[number] = fault
            self._note_actions()
        if self._trace is not None:
            self._trace.fault_added(number, to_text(fault))
        _log.info("fault %d added: %s", number, fault.to_json())
        return number

    def clear(self, fault_id: int | None = None) -> int:
        """End a fault, or all but those of the start; how many ended. Commands they hold are carried out.

        Raises:
            FaultError: it ends with the device.
            UnknownFaultError: there is no such fault.
        """
        with self._lock:
            if fault_id is not None and fault_id not in self._faults:
                raise UnknownFaultError(f"no fault {fault_id}")
            cleared = [number for number, fault in self._faults.items() if not fault.spec.at_start_only]
            if fault_id is not None:
                if fault_id not in cleared:
                    action = self._faults[fault_id].action
                    raise FaultError("id", f"fault {fault_id}, {action}, is of the start and ends with the device")
                cleared = [fault_id]
            for number in cleared:
                lib.ihsm_engine_fault_clear(self._engine.handle, number)
                del self._faults[number]
            self._note_actions()
        for number in cleared:
            if self._trace is not None:
                self._trace.fault_cleared(number)
            _log.info("fault %d cleared", number)
        return len(cleared)

    def hits(self, fault_id: int) -> int:
        """How many events the fault has hit; of resets and pauses, how many are over.

        Raises:
            UnknownFaultError: there is no such fault.
        """
        count = int(lib.ihsm_engine_fault_hits(self._engine.handle, fault_id)) if 0 < fault_id < 1 << 32 else -1
        if count < 0:
            raise UnknownFaultError(f"no fault {fault_id}")
        fault = self._faults.get(fault_id)
        if fault is not None and fault.action in _TOLD_WHEN_OVER:
            return self._over.get(fault_id, 0)
        return 1 if fault is not None and fault.action in _HIT_BY_STARTING else count

    def list(self) -> Sequence[StandingFault]:
        """Every fault in the order of ids."""
        with self._lock:
            return [self._standing(number, fault) for number, fault in self._faults.items()]

    def _standing(self, number: int, fault: Fault) -> StandingFault:
        hits = self.hits(number)
        count = 1 if fault.action in _ONCE else fault.when.count
        return StandingFault(number, fault, hits, None if count is None else count - hits)

    def on_hit(self, callback: Callable[[], None]) -> None:
        """Call back after a fault has been hit, has ended or has been cleared, from a thread of the set's own."""
        with self._lock:
            self._callbacks.append(callback)

    def seen(self) -> Sequence[StandingFault]:
        """Commands that must never be seen, and have been."""
        if FaultAction.NEVER not in self._actions:
            return ()
        return [standing for standing in self.list() if standing.fault.action is FaultAction.NEVER and standing.hits]

    @property
    def is_returning(self) -> bool:
        """Whether the function is still gone, though no fault wants it so any more."""
        return self.removed and FaultAction.REMOVE_FUNCTION not in self._actions

    def is_never(self, fault_id: int) -> bool:
        """Whether the fault is a command that must never be seen."""
        fault = self._faults.get(fault_id)
        return fault is not None and fault.action is FaultAction.NEVER

    def close(self) -> None:
        """End the thread; before the engine is closed."""
        self._is_closing = True
        lib.ihsm_engine_faults_close(self._engine.handle)
        if self._thread is not None:
            self._thread.join()

    # -- what the device asks

    def ask(
        self, action: FaultAction, *, registers: frozenset[Register] = frozenset(), opcode: int = _ANY, part: str = ""
    ) -> FaultHit | None:
        """The fault with that action that hits an event, if one does; `part` is as in `Faults`."""
        if action not in self._actions:
            return None
        event = ffi.new("struct ihsm_event *")
        event.operation = event.queue = event.session = event.vector = _ANY
        event.opcode = opcode
        event.registers = _mask(registers)
        event.parts = _NAMED_PARTS.get(part, 0)
        number = int(lib.ihsm_engine_fault_hit(self._engine.handle, _ACTIONS[action], event))
        with self._lock:
            fault = self._faults.get(number)
        if fault is None:
            return None
        return FaultHit(fault, lambda: self._stands(number))

    def gone(self, registers: frozenset[Register]) -> bool:
        """Whether the registers would be read as ones now; no fault is hit by the question."""
        if FaultAction.ALL_ONES not in self._actions:
            return False
        return bool(lib.ihsm_engine_gone(self._engine.handle, _mask(registers)))

    # -- the thread

    def _note_actions(self) -> None:
        self._actions = frozenset(fault.action for fault in self._faults.values())
        self.shown = bool(self._actions) or self.removed

    def _hold(self, fault_id: int, command: Command) -> None:
        with self._lock:
            self._held.append((fault_id, command))
        lib.ihsm_engine_faults_look(self._engine.handle)  # the fault may have ended meanwhile

    def _start(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="faults", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while not (happened := int(lib.ihsm_engine_faults_wait(self._engine.handle))) & lib.IHSM_HAPPENED_CLOSE:
            if happened & lib.IHSM_HAPPENED_RESET:
                begun = self._begun(FaultAction.RESET_FUNCTION)
                with self._engine.function_mutex():
                    self._attempt(self._reset)
                self._over |= begun
            if happened & lib.IHSM_HAPPENED_TIME:
                self._attempt(self._pause)
            self._attempt(self._remove_or_return)
            if commands := self._no_longer_held():
                self._attempt(self._release, commands)
            with self._lock:
                callbacks = list(self._callbacks)
            for callback in callbacks:
                self._attempt(callback)

    def _begun(self, action: FaultAction) -> dict[int, int]:
        """By fault with that action: how often it has been hit, whether that had its effect or not."""
        with self._lock:
            numbers = [number for number, fault in self._faults.items() if fault.action is action]
        return {number: int(lib.ihsm_engine_fault_hits(self._engine.handle, number)) for number in numbers}

    def _pause(self) -> None:
        """The process stands still, for each fault whose time has come."""
        for number, hits in self._begun(FaultAction.PAUSE_PROCESS).items():
            with self._lock:
                fault = self._faults.get(number)
            if fault is not None and hits > self._over.get(number, 0) and not self._is_closing:
                try:
                    with self.running:
                        pause(int(fault.parameters["ms"]) / 1000)
                finally:
                    self._over[number] = hits

    def _remove_or_return(self) -> None:
        """The function goes, or is there again, as the faults say now."""
        begun = self._begun(FaultAction.REMOVE_FUNCTION) if self.shown else {}
        standing = [number for number, hits in begun.items() if hits and self._stands(number)]
        if bool(standing) != self.removed:
            with self._engine.function_mutex():
                self._reset()
                self._engine.set_removed(bool(standing))
                with self._lock:
                    self.removed = bool(standing)
                    self._note_actions()
            _log.info("the function is %s", "gone" if self.removed else "there again")
        self._over |= dict.fromkeys(standing, 1)

    def _stands(self, number: int) -> bool:
        """Whether a fault is there, and its time not over."""
        return bool(lib.ihsm_engine_fault_stands(self._engine.handle, number))

    def _release(self, commands: Sequence[Command]) -> None:
        """Carry commands out: not on this thread, for a DELETE_SQ waits for what it puts off, nor for each other's end.

        Of HSM commands there may be as many as a client's queues hold, so that they share one thread.
        """
        admin = [command for command in commands if command.ring is RingClass.ADMIN]
        others = [command for command in commands if command.ring is not RingClass.ADMIN]
        for batch in (admin, others):
            if batch:
                try:
                    threading.Thread(target=self._carry_out, args=(batch,), name="released", daemon=True).start()
                except RuntimeError as error:
                    _log.error("%d commands that were held are refused: %s", len(batch), error)
                    for command in batch:
                        command.refuse()

    def _carry_out(self, commands: Sequence[Command]) -> None:
        for command in commands:
            if command.live:
                self._attempt(self._execute, command)

    def _no_longer_held(self) -> Sequence[Command]:
        """Take the commands whose fault has ended; those whose queue has gone are forgotten."""
        with self._lock:
            ended, held = [], []
            for number, command in self._held:
                if not command.live:
                    continue
                if self._stands(number):
                    held.append((number, command))
                else:
                    ended.append(command)
            self._held = held
        return ended

    @staticmethod
    def _attempt(work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception:
            logs.failure(_log, "a fault's consequence failed")


def _mask(registers: frozenset[Register]) -> int:
    return sum(_REGISTERS[register] for register in registers)


def _number(parameters: Mapping[str, int | str], *names: str) -> int:
    """The first of the parameters that is given, else -1."""
    return next((int(parameters[name]) for name in names if name in parameters), _ANY)


def _native(fault: Fault) -> Any:
    """The fault as C has it."""
    match, when, parameters = fault.match, fault.when, fault.parameters
    native = ffi.new("struct ihsm_fault *")
    native.action = _ACTIONS[fault.action]
    native.operation = _ANY if match.operation is None else int(match.operation)
    for name in ("queue", "opcode", "session", "vector"):
        value = getattr(match, name)
        setattr(native, name, _ANY if value is None else value)
    native.registers = 0 if match.register is None else _REGISTERS[match.register]
    native.parts = sum(_NAMED_PARTS[name] for name in ("hsm", "aes") if name in parameters)
    for name, bits in (("part", _PARTS), ("resource", _NAMED_PARTS), ("field", _NAMED_PARTS)):
        if name in parameters:
            native.parts = bits[str(parameters[name])]
    native.nth, native.count = when.nth, when.count or 0
    native.after_ms, native.for_ms = when.after_ms, when.for_ms or 0
    native.per_mille, native.seed = when.per_mille or 0, when.seed
    native.delay_ms = max(0, _number(parameters, "ms"))
    native.every_us = max(0, _number(parameters, "us"))
    native.value = _number(parameters, "cid", "sqhd", "status", "vector", "xor", "bytes", "behind")
    native.err = _number(parameters, "err", "told")
    native.at = _number(parameters, "at")
    return native
