# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""An I/O queue: HSM or AES (spec 01 §5, §6.6-§6.8, §7)."""

from __future__ import annotations

import errno

from ihsm_abi.uapi import InternalCode
from ihsm_kmod.hsm.admin import AdminCommands, ignoring_status
from ihsm_kmod.hsm.counters import QueuePerf
from ihsm_kmod.hsm.function import HsmFunction
from ihsm_kmod.hsm.irq import Vector
from ihsm_kmod.hsm.rings import QueueFormat, QueuePair
from ihsm_kmod.hsm.tags import Command
from ihsm_kmod.kernel.errors import Errno


class IoQueue(QueuePair):
    """A queue pair that commands of user space go through; completions come in over its vector."""

    def __init__(self, function: HsmFunction, queue_id: int, slots: int, form: QueueFormat, vector: Vector) -> None:
        """Allocate the rings; the queue exists on the device after `create`."""
        super().__init__(function, queue_id, slots, form)
        self.vector = vector
        self.disabled = False
        """Takes no submission."""
        self.perf = QueuePerf()

    def create(self, admin: AdminCommands) -> None:
        """Make the queue on the device: CREATE_CQ, CREATE_SQ; if the second fails, DELETE_CQ (spec 01 §7)."""
        admin.create_cq(self.id, self.slots, self.cq.dma_handle, self.vector.number)
        self.vector.attach(self)
        try:
            self.create_sq(admin)
        except Errno:
            self.vector.detach(self)
            with ignoring_status():
                admin.delete_cq(self.id)
            raise

    def create_sq(self, admin: AdminCommands) -> None:
        """CREATE_SQ: also of level 1, with the same ring, CQ, size and priority (spec 01 §8.2)."""
        admin.create_sq(self.id, self.slots, self.sq.dma_handle)

    def delete(self, admin: AdminCommands) -> None:
        """Delete the queue on the device, whatever it answers (spec 01 §13)."""
        for delete in (admin.delete_sq, admin.delete_cq):
            with ignoring_status():
                delete(self.id)

    def free(self) -> None:
        """Free the rings; the statistics are zero from here on."""
        self.perf.clear()
        self.free_rings()

    def submit(self, sqe: bytearray, command: Command) -> None:
        """Put a command in the ring; its `code` says why if that fails.

        Raises:
            Errno: EAGAIN, the queue is disabled (QDISABLED) or full (UNDEFINED: nothing has said otherwise), or the
                command was aborted before it was in the ring (ABORTED).
        """
        if not self.function.quirks.full_queue_sleeps_locked:
            self.tags.claim_sleeping(command)
        with self.submit_lock:
            try:
                self._submit_locked(sqe, command)
            except Errno:
                self.forget(command)
                raise

    def _submit_locked(self, sqe: bytearray, command: Command) -> None:
        self._require_enabled(command)
        if command.tag is None:
            # With the lock held: until a completion frees a tag nobody else gets past it, no abort either (§5.1).
            self.tags.claim_sleeping(command)
            # A removal does not wait for the lock.
            self._require_enabled(command)
        elif not self.tags.has(command):
            # Its tag may be another command's by now.
            raise Errno(errno.EAGAIN, f"queue {self.id} was begun anew")
        # A free tag and no room: sqhd lags behind. Nothing heals that but a level-2 reset.
        if self.full:
            raise Errno(errno.EAGAIN, f"queue {self.id} is full")
        self.push(sqe, command)

    def _require_enabled(self, command: Command) -> None:
        if self.disabled:
            command.code = InternalCode.QDISABLED
            raise Errno(errno.EAGAIN, f"queue {self.id} is disabled")

    def disable(self) -> None:
        """Take no submission any more; waits for one that is under way."""
        with self.submit_lock:
            self.disabled = True

    def restart(self) -> None:
        """Begin with an empty submission ring; the completion ring goes on where it is (spec 01 §8.2 step 6)."""
        with self.submit_lock:
            self.tail = self.sq_head = 0
