# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The pools of HSM and AES queues: their number, their vectors, which takes a command (spec 01 §1.2, §5.3, §7)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ihsm_abi.admin import Feature
from ihsm_abi.pci import AES_VECTORS, HSM_VECTORS
from ihsm_abi.resources import FIRST_AES_QUEUE_ID, FIRST_HSM_QUEUE_ID
from ihsm_kmod.hsm.admin import AdminCommands
from ihsm_kmod.hsm.function import HsmFunction
from ihsm_kmod.hsm.irq import Vector
from ihsm_kmod.hsm.queue import IoQueue
from ihsm_kmod.hsm.rings import AES_FORMAT, HSM_FORMAT, QueueFormat
from ihsm_kmod.kernel.errors import Errno


@dataclass(frozen=True)
class PoolKind:
    """What makes the two pools different."""

    form: QueueFormat
    feature: Feature
    """Whose SET_FEAT tells the number of queues."""
    first_id: int
    first_vector: int
    created: str
    """Counter of queues created."""


HSM_POOL: Final = PoolKind(
    HSM_FORMAT, Feature.HSM_QUEUE_COUNT, FIRST_HSM_QUEUE_ID, HSM_VECTORS.start, "num_cpqs_created"
)
AES_POOL: Final = PoolKind(
    AES_FORMAT, Feature.AES_QUEUE_COUNT, FIRST_AES_QUEUE_ID, AES_VECTORS.start, "num_fpqs_created"
)


def vector_limit(kind: PoolKind, granted: int) -> int:
    """Most vectors of a pool, of so many that the function got (spec 01 §1.2).

    The AES pool begins at vector 16 however many there are, so with few vectors and many queues it asks for some that
    do not exist.
    """
    return granted // 2 if kind is AES_POOL else (granted - 1) // 2


class QueuePool:
    """All queues of one kind; `count` of them were granted by the device."""

    queue: type[IoQueue] = IoQueue
    """What its queues are."""

    def __init__(self, function: HsmFunction, kind: PoolKind, slots: int) -> None:
        """An empty pool, nothing allocated."""
        self.function = function
        self.kind = kind
        self.slots = slots
        self.count = 0
        self.queues: list[IoQueue] = []
        self._vectors: list[Vector] = []
        self._freed: list[IoQueue] = []
        self._current = 0

    def negotiate(self, admin: AdminCommands) -> None:
        """Ask the device how many queues there are, request all their vectors; 0 queues are no error here."""
        self.queues = []
        self._vectors = []
        self._current = 0
        self.count = admin.set_queue_count(self.kind.feature)
        for index in range(min(vector_limit(self.kind, self.function.vectors), self.count)):
            number = self.kind.first_vector + index
            self._vectors.append(Vector(self.function, number, f"azihsm-{self.kind.form.name}-{number}"))

    def create_queues(self, admin: AdminCommands) -> Iterator[IoQueue]:
        """Create the queues, by ascending id; each is given when it is there.

        Raises:
            Errno: a command failed. What was created stays on the device until CC.EN is cleared (spec 01 §7).
        """
        for index in range(self.count):
            vector = self._vectors[index % len(self._vectors)]
            queue = self.queue(self.function, self.kind.first_id + index, self.slots, self.kind.form, vector)
            try:
                queue.create(admin)
            except Errno:
                queue.free()
                if not self.function.quirks.queues_left_after_failed_create:
                    for earlier in self.queues:
                        earlier.delete(admin)
                raise
            self.queues.append(queue)
            self.function.counters.add(self.kind.created)
            yield queue

    def destroy(self, admin: AdminCommands | None) -> None:
        """Free queues and vectors; with admin commands, delete the queues on the device first (spec 01 §13)."""
        queues, vectors = self.queues, self._vectors
        self.queues, self._vectors, self.count = [], [], 0
        self._freed = queues or self._freed
        for queue in queues:
            # For callers that sleep for a tag with the submit lock held (§5.1), which a removal does not wait for.
            queue.disabled = True
        for queue in queues:
            # Off its vector first: nobody consumes what it completes from here on.
            queue.vector.detach(queue)
            if admin:
                queue.delete(admin)
            queue.free()
        for vector in vectors:
            vector.free()

    def destroy_again(self) -> None:
        """Free what is freed, as one does whose pointers still lead there (spec 01 §8.3); no kernel survives it."""
        for queue in self._freed:
            queue.free()
            queue.vector.detach(queue)

    def select(self) -> IoQueue | None:
        """The queue for the next command: in turn, past those that are disabled or full (spec 01 §5.3).

        If all are, the one whose turn it is; None if that one is disabled.
        """
        queues = self.queues  # a level-2 abort may free them meanwhile: then they are disabled
        if not queues:
            return None
        start = self._current % len(queues)
        self._current = start + 1
        for queue in queues[start:] + queues[:start]:
            with queue.submit_lock:
                if not queue.disabled and not queue.full:
                    return queue
        last_resort = queues[start]
        return None if last_resort.disabled else last_resort

    def disable(self) -> None:
        """No queue takes a submission any more."""
        for queue in self.queues:
            queue.disable()

    def flush(self) -> None:
        """Complete all commands of all queues with ABORTED."""
        for queue in self.queues:
            self.function.counters.add("total_cmds_aborted", queue.flush())
