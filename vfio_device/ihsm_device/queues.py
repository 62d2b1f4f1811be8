# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Queue ids of a function (spec 01 §14.2), and what the control plane asks of the engine that moves the entries."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from ihsm_abi.resources import (
    LAST_AES_QUEUE_ID,
    LAST_HSM_QUEUE_ID,
    aes_queue_ids,
    hsm_queue_ids,
    is_hsm_queue_id,
)


class QueueEngine(Protocol):
    """The queue engine of one function, as the controller sees it."""

    def enable_admin(self, asq: int, acq: int, sq_entries: int, cq_entries: int) -> None:
        """Start the admin rings; raises NoPointerError if they lie in memory that came without a pointer."""

    def disable(self) -> None:
        """Drop all queues; afterwards no DMA, no completion and no interrupt follows."""

    def reset(self) -> None:
        """As `disable`, and the MSI-X table goes back to its reset values."""

    def create_cq(self, queue_id: int, base: int, entries: int, vector: int | None) -> None:
        """Start a completion queue at guest address `base`; without a vector it raises no interrupts."""

    def create_sq(self, queue_id: int, base: int, entries: int, cqid: int) -> None:
        """Start a submission queue on an existing completion queue."""

    def cq_exists(self, queue_id: int) -> bool:
        """True if the completion queue exists."""

    def sq_exists(self, queue_id: int) -> bool:
        """True if the submission queue exists."""

    def delete_sq(self, queue_id: int) -> bool:
        """End a submission queue once its fetched commands are done; False if it went otherwise meanwhile."""

    def delete_cq(self, queue_id: int) -> None:
        """End a completion queue that no submission queue uses."""

    @property
    def admin_stopped(self) -> bool:
        """True once an admin entry could not be read or a completion not be written."""


@dataclass(frozen=True, slots=True)
class QueueState:
    """One queue pair at a moment, for people to look at; heads and tails are indexes of entries."""

    queue_id: int
    has_sq: bool
    has_cq: bool
    stopped: bool
    """An entry could not be read, or a completion not be written."""
    vector: int | None
    sq_entries: int
    sq_head: int
    sq_tail: int
    cq_entries: int
    cq_head: int
    cq_tail: int


class IdCheck(Enum):
    """What a queue id is to a function."""

    OWNED = auto()
    BEYOND_RESOURCES = auto()
    OUT_OF_RANGE = auto()


def check_id(queue_id: int, resources: int) -> IdCheck:
    """Classify a non-zero queue id for a function with `resources` resources, as spec 01 §14.4 does."""
    if is_hsm_queue_id(queue_id):
        last, owned = LAST_HSM_QUEUE_ID, hsm_queue_ids(resources)
    else:
        last, owned = LAST_AES_QUEUE_ID, aes_queue_ids(resources)
    if queue_id in owned:
        return IdCheck.OWNED
    return IdCheck.OUT_OF_RANGE if queue_id > last or queue_id < owned.start else IdCheck.BEYOND_RESOURCES
