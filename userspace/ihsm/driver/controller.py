# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Bring-up, queues and teardown of one function (spec 01 §4, §12, §13)."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Final

import numpy as np

from ihsm import forks
from ihsm.bus import DmaArena, DmaBuffer, PciFunction
from ihsm.bus.arena import MAX_ARENA_BYTES
from ihsm.closing import Closing
from ihsm.driver.admin_queue import ADMIN_ENTRIES, AdminQueue, Identity
from ihsm.driver.aes_queue import AesQueue
from ihsm.driver.buffers import Buffers
from ihsm.driver.completion import CompletionLine
from ihsm.driver.doorbells import Doorbells
from ihsm.driver.eventfds import eventfds
from ihsm.driver.exchanges import Exchanges
from ihsm.driver.hsm_queue import HsmQueue
from ihsm.driver.options import DriverOptions
from ihsm.driver.queue_pair import QueuePair
from ihsm.driver.registers import Registers
from ihsm.driver.rings import ADMIN_RING
from ihsm.errors import (
    AdminCommandError,
    ArgumentError,
    ArgumentTypeError,
    BusError,
    ControllerLostError,
    DriverError,
    ForkedError,
    IhsmError,
    QueueClosedError,
    UnsupportedDeviceError,
)
from ihsm_abi.admin import AES_FW_CAPS_GCM_WORKAROUND, IDENTIFY, Feature
from ihsm_abi.pci import (
    ADMIN_VECTOR,
    AES_VECTORS,
    BAR_BYTES,
    DEVICE_ID,
    HSM_VECTORS,
    PAGE_BYTES,
    VENDOR_ID,
    Bar,
)
from ihsm_abi.registers import Aqa, Register
from ihsm_abi.resources import FIRST_AES_QUEUE_ID, FIRST_HSM_QUEUE_ID

_log = logging.getLogger(__name__)

PCI_COMMAND: Final = 0x04
PCI_COMMAND_MEMORY: Final = 1 << 1
PCI_COMMAND_BUS_MASTER: Final = 1 << 2


class ControllerState(Enum):
    """How far a controller's life has come."""

    ATTACHED = auto()
    """Interrupts and the admin queue's memory are not complete: there is nothing that the device could use."""
    DISABLED = auto()
    """The queues have memory that the device does not use."""
    ENABLED = auto()
    """CC.EN was set: the device may use whatever it has been told of."""
    CLOSED = auto()


class Controller(Exchanges, Closing):
    """A function that has been brought up. Methods may be called from any thread, `reset` and `close` from one.

    It is an `AsyncTransport` of `ihsm.ddi`: `exchange` and `exchange_async` take the HSM queues in turn.
    """

    def __init__(self, function: PciFunction, options: DriverOptions | None = None) -> None:
        """Bring the controller up with all its queues. The function is closed with the controller.

        Raises:
            UnsupportedDeviceError: the function is not an integrated HSM.
            ControllerTimeoutError, ControllerFatalError: it does not become ready.
            AdminCommandError: it refuses a command that must succeed.
            BusError: it cannot be reached.
        """
        if not isinstance(function, PciFunction):
            raise ArgumentTypeError("Controller", "function", f"{type(function).__name__}, must be a PciFunction")
        if not isinstance(options, DriverOptions | None):
            raise ArgumentTypeError("Controller", "options", f"{type(options).__name__}, must be DriverOptions")
        self.function = function
        self.options = options or DriverOptions()
        self.registers = Registers(function)
        self.hsm_queues: list[HsmQueue] = []
        self.aes_queues: list[AesQueue] = []
        self.gcm_workaround = False
        self._arenas: list[DmaArena] = []
        self._events: list[int] = []
        self._lines: dict[int, CompletionLine] = {}
        self._life = threading.Lock()
        self._state = ControllerState.ATTACHED
        self._enabled: tuple[()] | tuple[int] = ()
        """I/O address of the admin SQ while the device has to be enabled with it; another object each time."""
        self._forked = False
        forks.watch(self)
        try:
            self._check_function()
            self._enable_function()
            self._prepare()
            self._bring_up()
        except BaseException:
            self.close()
            raise

    def _check_function(self) -> None:
        vendor, device = np.frombuffer(self.function.read_config(0, 4), "<u2").tolist()
        if (vendor, device) != (VENDOR_ID, DEVICE_ID):
            raise UnsupportedDeviceError(
                f"{self.function.uri}: PCI id {vendor:04x}:{device:04x}, {VENDOR_ID:04x}:{DEVICE_ID:04x} expected"
            )
        for bar in Bar:
            if self.function.bar_bytes(bar) != BAR_BYTES:
                raise UnsupportedDeviceError(
                    f"{self.function.uri}: BAR{bar} has {self.function.bar_bytes(bar)} bytes, {BAR_BYTES} expected"
                )

    def _enable_function(self) -> None:
        """Memory space and bus mastering; a reset of the function takes them away."""
        command = int.from_bytes(self.function.read_config(PCI_COMMAND, 2), "little")
        command |= PCI_COMMAND_MEMORY | PCI_COMMAND_BUS_MASTER
        self.function.write_config(PCI_COMMAND, command.to_bytes(2, "little"))

    def forked(self) -> None:
        """In a child of fork(): as closed, while the device works on for the parent."""
        self._life = threading.Lock()
        self._forked = True
        self._state = ControllerState.CLOSED
        self._close_events()

    def _require_ours(self, operation: str) -> None:
        if self._forked:
            raise ForkedError(f"{self.function.uri}: {operation}")

    @property
    def uri(self) -> str:
        """Where the function is."""
        return self.function.uri

    @property
    def outlives_us(self) -> bool:
        """Whether the partition stays as it is after `close`: whoever has the function next resets it."""
        return False

    @property
    def state(self) -> ControllerState:
        """Whether the device works for this controller."""
        return self._state

    def _prepare(self) -> None:
        """Interrupts, doorbells and the admin queue's memory."""
        if self.options.interrupts:
            if self.function.vectors <= AES_VECTORS.start:
                raise UnsupportedDeviceError(
                    f"{self.function.uri}: {self.function.vectors} MSI-X vectors, {AES_VECTORS.start + 1} needed; "
                    "poll instead: --poll, or DriverOptions(interrupts=False)"
                )
            self._events = eventfds(self.function.vectors)
            self.function.enable_interrupts(self._events)
        arena = self._new_arena(ADMIN_RING.ring_bytes(ADMIN_ENTRIES) + PAGE_BYTES)
        self._bells = Doorbells(self.function)
        self.admin = AdminQueue(arena, self._bells, self._line(ADMIN_VECTOR))
        self._identify_page = arena.allocate_pages(IDENTIFY.itemsize)
        self._state = ControllerState.DISABLED

    def _bring_up(self) -> None:
        self._enable()
        hsm_count = _limited(self.admin.queue_count(Feature.HSM_QUEUE_COUNT), self.options.hsm_queues)
        aes_count = _limited(self.admin.queue_count(Feature.AES_QUEUE_COUNT), self.options.aes_queues)
        if not hsm_count:
            raise UnsupportedDeviceError(f"{self.function.uri}: the function has no HSM queues")
        self._make_queues(hsm_count, aes_count)
        self._create_queues()
        self._begin_round()

    def _enable(self) -> None:
        """Spec 01 §4.3, §4.4 and Identify."""
        registers = self.registers
        if registers.csts.rdy or registers.cc.en:
            registers.disable()
        self.admin.restart()
        registers.write(Register.AQA, Aqa.of(asqs=ADMIN_ENTRIES - 1, acqs=ADMIN_ENTRIES - 1))
        registers.write(Register.ASQ, self.admin.sq_iova)
        registers.write(Register.ACQ, self.admin.cq_iova)
        self._state = ControllerState.ENABLED
        registers.write(Register.CC, registers.cc.replace(en=1))
        registers.wait_ready(1)
        self._enabled = (self.admin.sq_iova,)
        self.admin.open()
        self.admin.identify(self._identify_page.iova)
        self.identity = Identity.parse(self._identify_page.view)
        self._program_entry_sizes()

    def _program_entry_sizes(self) -> None:
        identity = self.identity
        sizes = {
            "cp_iosqes": identity.hsm_sqe_bytes,
            "cp_iocqes": identity.hsm_cqe_bytes,
            "fp_iosqes": identity.aes_sqe_bytes,
            "fp_iocqes": identity.aes_cqe_bytes,
        }
        expected = (64, 16, 128, 64)
        if tuple(sizes.values()) != expected:
            raise UnsupportedDeviceError(
                f"{self.function.uri}: entries of {tuple(sizes.values())} bytes (HSM SQE, CQE, AES SQE, CQE), "
                f"{expected} expected"
            )
        fields = {name: size.bit_length() - 1 for name, size in sizes.items()}
        self.registers.write(Register.CC, self.registers.cc.replace(**fields))

    def _make_queues(self, hsm_count: int, aes_count: int) -> None:
        options = self.options
        hsm_bytes = HsmQueue.memory_bytes(options.hsm_entries)
        aes_bytes = AesQueue.memory_bytes(options.aes_entries)
        arenas = self._share_out([hsm_bytes] * hsm_count + [aes_bytes] * aes_count)
        hsm_vectors = HSM_VECTORS[: (self.function.vectors - 1) // 2] if options.interrupts else HSM_VECTORS
        for index in range(hsm_count):
            line = self._line(hsm_vectors[index % len(hsm_vectors)])
            queue_id = FIRST_HSM_QUEUE_ID + index
            self.hsm_queues.append(HsmQueue(queue_id, options.hsm_entries, next(arenas), self._bells, line))
        present = self.function.vectors - AES_VECTORS.start
        aes_vectors = AES_VECTORS[:present] if options.interrupts else AES_VECTORS
        for index in range(aes_count):
            line = self._line(aes_vectors[index % len(aes_vectors)])
            queue = AesQueue(
                FIRST_AES_QUEUE_ID + index, options.aes_entries, next(arenas), self._bells, line, buffers=self.buffers
            )
            self.aes_queues.append(queue)

    def _share_out(self, sizes: Sequence[int]) -> Iterator[DmaArena]:
        """The arena of each queue: as few as hold them all, the first of them with the buffers.

        An arena has a limit, and so many queues of so many entries may need more.
        """
        totals, places = [self.options.buffer_bytes], []
        for size in sizes:
            if totals[-1] + size > MAX_ARENA_BYTES:
                totals.append(0)
            totals[-1] += size
            places.append(len(totals) - 1)
        if not 0 < max(totals) <= MAX_ARENA_BYTES:
            raise ArgumentError(
                "Controller",
                "options",
                f"a queue or its buffers need {max(totals)} bytes of DMA memory, {MAX_ARENA_BYTES} possible",
            )
        made = [self._new_arena(total) for total in totals if total]
        self.arena = made[0]
        self.buffers = Buffers(self.arena, self._new_arena, self._drop_arena)
        return iter([made[place] for place in places])

    def _create_queues(self) -> None:
        """Spec 01 §12 steps 13-20; queue counts may not shrink between two bring-ups of the same controller."""
        for queue in (*self.hsm_queues, *self.aes_queues):
            queue.restart()
            self.admin.create_cq(queue, self._vector_of(queue))
            self.admin.create_sq(queue)
            queue.open()
        self.gcm_workaround = False
        with contextlib.suppress(AdminCommandError):  # an old firmware without the feature: no workaround
            self.gcm_workaround = bool(self.admin.aes_firmware_caps() & AES_FW_CAPS_GCM_WORKAROUND)
        for aes_queue in self.aes_queues:
            aes_queue.gcm_workaround = self.gcm_workaround

    def _line(self, vector: int) -> CompletionLine:
        if vector not in self._lines:
            event = self._events[vector] if self._events else None
            self._lines[vector] = CompletionLine(event, self.options.spin_us, self._check_health)
        return self._lines[vector]

    def _check_health(self) -> None:
        """Whether the device still works for this controller; it does not have to while we reset it ourselves."""
        expected = self._enabled
        try:
            self.registers.check_health(*expected)
        except ControllerLostError:
            if self._enabled is expected:
                raise

    def _vector_of(self, queue: QueuePair) -> int | None:
        if not self._events:
            return None
        return next(vector for vector, line in self._lines.items() if line is queue.line)

    def _new_arena(self, size_bytes: int) -> DmaArena:
        arena = self.function.allocate_arena(size_bytes)
        self._arenas.append(arena)
        return arena

    def _drop_arena(self, arena: DmaArena) -> None:
        with contextlib.suppress(ValueError):  # closed with the controller
            self._arenas.remove(arena)
        arena.close()

    def allocate(self, size_bytes: int, alignment: int = 64) -> DmaBuffer:
        """DMA buffer from the controller's arena, for zero-copy AES commands."""
        return self.arena.allocate(size_bytes, alignment)

    @property
    def free_bytes(self) -> int:
        """What of the controller's arena is free."""
        return self.arena.free_bytes

    def recover_queue(self, queue: HsmQueue | AesQueue) -> None:
        """Delete and create a queue's SQ: its outstanding commands fail, the rest goes on (spec 01 §8.2).

        Raises:
            AdminCommandError: use `reset` then.
            ForkedError: the controller is the parent's.
        """
        self._require_ours("recovery of a queue")
        with self._life:
            queue.suspend()
            self.admin.delete_sq(queue)
            queue.reap()
            queue.close(QueueClosedError(f"{queue} was recovered while the command was outstanding"))
            queue.restart_sq()
            self.admin.create_sq(queue)
            queue.open()

    def reset(self, *, subsystem: bool = False) -> None:
        """Bring the whole controller up anew: outstanding commands fail, queues keep their memory (spec 01 §8.3).

        Args:
            subsystem: NSSR instead of a disable; the sessions of the function end (spec 04 §12).

        Raises:
            ForkedError: the controller is the parent's.
        """
        self._require_ours("reset of the controller")
        with self._life:
            self._enabled = ()
            self._fail_all(QueueClosedError("the controller was reset while the command was outstanding"))
            # Whoever reset the function under us has taken these away.
            self._enable_function()
            if self._events:
                self.function.enable_interrupts(self._events)
            if subsystem:
                self.registers.subsystem_reset()
            else:
                self.registers.disable()
            self._state = ControllerState.DISABLED
            self._enable()
            self._create_queues()

    def stop(self, error: IhsmError) -> None:
        """Have HSM and AES commands fail with `error`, those outstanding and those to come, until `reset`."""
        for queue in (*self.aes_queues, *self.hsm_queues):
            queue.close(error)

    def recover(self) -> None:
        """Have a controller that was lost work again: nobody else has it, so that it is reset. Errors as `reset`."""
        self.reset()

    def _fail_all(self, error: IhsmError) -> None:
        self.stop(error)
        self.admin.close(error)

    def close(self) -> None:
        """Tear down in the order of spec 01 §13 and close the function; harmless the second time."""
        with self._life:
            state, self._state = self._state, ControllerState.CLOSED
        if state is ControllerState.CLOSED:
            return
        if state is ControllerState.ENABLED:
            try:
                self._check_health()
                self._delete_queues()
                self._enabled = ()
                self.registers.disable()
            except (BusError, DriverError) as error:
                _log.debug("teardown cut short: %s", error)
        if state is not ControllerState.ATTACHED:
            self._release_queues()
        try:
            if self._events:
                self.function.disable_interrupts()
            for arena in list(self._arenas):
                arena.close()
        except BusError as error:
            _log.debug("teardown cut short: %s", error)
        self.function.close()
        self._close_events()

    def _close_events(self) -> None:
        events, self._events = self._events, []  # first, lest a fork meanwhile closes them a second time
        for event in events:
            os.close(event)

    def _delete_queues(self) -> None:
        created = [queue for queue in (*self.aes_queues, *self.hsm_queues) if queue.is_open]
        for queue in created:
            queue.suspend()
            self.admin.delete_sq(queue)
            queue.reap()  # what the device has completed before it let go of the queue
            self.admin.delete_cq(queue)

    def _release_queues(self) -> None:
        self._fail_all(QueueClosedError("the controller is closed"))
        for line in self._lines.values():
            line.close()
        for queue in (*self.aes_queues, *self.hsm_queues, self.admin):
            queue.release()
        self._bells.close()


def _limited(count: int, limit: int | None) -> int:
    return count if limit is None else min(count, limit)
