# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Admin commands: one function per command, its checks in the order of spec 01 §14.4, then its work.

The function is an emulated VF (spec 01 §14.8): it owns its resources from the start, cannot set resource counts and
refuses the live-migration commands.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np

from ihsm_abi.admin import (
    ADMIN_SQE,
    AES_FW_CAPS_GCM_WORKAROUND,
    IDENTIFY,
    IDENTIFY_SIZES,
    AdminOpcode,
    AdminStatus,
    CreateCqDw11,
    CreateSqDw11,
    Feature,
    FeatureDw10,
    QueueCounts,
    QueueDw10,
)
from ihsm_abi.fault_actions import FaultAction, Resource
from ihsm_abi.fault_table import IDENTIFY_FIELDS
from ihsm_abi.pci import AES_VECTORS, HSM_VECTORS, SUBSYSTEM_VENDOR_ID, VENDOR_ID
from ihsm_abi.registers import Register
from ihsm_abi.resources import AES_QUEUES_PER_RESOURCE, MAX_CONTROLLER_ID, is_hsm_queue_id
from ihsm_device.faults import Faults
from ihsm_device.queues import IdCheck, QueueEngine, check_id

MAX_TRANSFER_LOG2: Final = 13
"""`cp_mdts` and `fp_mdts`: 2^13 = 8 KiB."""
HSM_MAX_COMMANDS: Final = 2
AES_MAX_COMMANDS: Final = 4
CONTROLLER_TYPE_IO: Final = 1
_COUNT_RANGE: Final = 1 << 16
"""Numbers of queues are told in 16 bits, less one: of none as 0xFFFF."""


@dataclass(frozen=True, slots=True)
class ControllerIdentity:
    """What tells one function from another: serial number, firmware version and its SVN, controller id."""

    serial: int
    firmware: str
    controller_id: int
    svn: int = 0

    def page(self, wrong: Mapping[str, int]) -> bytes:
        """The 102 bytes that IDENTIFY transfers (spec 01 §6.4), but for the fields that are told wrongly."""
        page = np.zeros((), IDENTIFY)
        page["vid"], page["ssvid"] = VENDOR_ID, SUBSYSTEM_VENDOR_ID
        page["sn"] = _padded(f"{self.serial:016X}", IDENTIFY["sn"].itemsize)
        page["fr"] = _padded(self.firmware, IDENTIFY["fr"].itemsize)
        page["ctrl_id"] = self.controller_id
        page["cp_mdts"] = page["fp_mdts"] = MAX_TRANSFER_LOG2
        for name, value in IDENTIFY_SIZES.items():
            page[name] = value
        page["cp_maxcmd"], page["fp_maxcmd"] = HSM_MAX_COMMANDS, AES_MAX_COMMANDS
        page["svn"], page["ver"], page["ctrl_type"] = self.svn, Register.VS.reset, CONTROLLER_TYPE_IO
        for name, told in wrong.items():
            page[name] = told
        return page.tobytes()


def _padded(text: str, size: int) -> bytes:
    """ASCII, cut or padded with spaces to `size` bytes."""
    return text.encode("ascii", "replace")[:size].ljust(size)


@dataclass(frozen=True, slots=True)
class AdminResult:
    """Outcome of an admin command: dw0 of the completion and `data` to be written to PRP1."""

    dw0: int = 0
    data: bytes | None = None


class AdminError(Exception):
    """An admin command that ends with a status other than success."""

    def __init__(self, status: AdminStatus) -> None:
        """`status` is the 15-bit host status (spec 01 §14.3)."""
        super().__init__(status.name)
        self.status = status


def _require(condition: object, status: AdminStatus) -> None:
    if not condition:
        raise AdminError(status)


@contextmanager
def _released(lock: threading.Lock) -> Iterator[None]:
    lock.release()
    try:
        yield
    finally:
        lock.acquire()


class AdminCommands:
    """The admin command processor of one function."""

    def __init__(
        self,
        identity: ControllerIdentity,
        resources: int,
        engine: QueueEngine,
        lock: threading.Lock,
        faults: Faults,
    ) -> None:
        """Commands act on the queues of `engine`, under `lock`, which the caller of `execute` holds.

        `faults` may let the function tell wrong numbers of queues.
        """
        self._identity = identity
        self._resources = resources
        self._engine = engine
        self._lock = lock
        self._faults = faults
        self._handlers: dict[int, Callable[[np.void], AdminResult]] = {
            AdminOpcode.DELETE_SQ: self._delete_sq,
            AdminOpcode.CREATE_SQ: self._create_sq,
            AdminOpcode.DELETE_CQ: self._delete_cq,
            AdminOpcode.CREATE_CQ: self._create_cq,
            AdminOpcode.IDENTIFY: self._identify,
            AdminOpcode.SET_FEATURES: self._set_features,
            AdminOpcode.GET_FEATURES: self._get_features,
            AdminOpcode.SET_RES_CNT: self._set_resource_count,
            AdminOpcode.GET_RES_CNT: self._get_resource_count,
            AdminOpcode.VF_PREP: self._migrate,
            AdminOpcode.VF_STOP: self._migrate,
            AdminOpcode.VF_START: self._migrate,
            AdminOpcode.VF_SAVE: self._migrate,
            AdminOpcode.VF_RESTORE: self._migrate,
        }

    def execute(self, sqe: bytes) -> AdminResult:
        """Run one command given its 64-byte entry; raises AdminError with the status of the first failing check."""
        entry = np.frombuffer(sqe, ADMIN_SQE, 1)[0]
        handler = self._handlers.get(int(entry["opc"]))
        if handler is None:
            raise AdminError(AdminStatus.INVALID_OPCODE)
        return handler(entry)

    def _identify(self, sqe: np.void) -> AdminResult:
        """CNS and controller id are ignored, as firmware does."""
        _require(sqe["prp1"], AdminStatus.INTERNAL_ERROR)
        return AdminResult(data=self._identity.page(self._wrong_fields() if self._faults.shown else {}))

    def _wrong_fields(self) -> dict[str, int]:
        """Fields that faults have the function tell wrongly, with what it tells."""
        hits = ((name, self._faults.ask(FaultAction.WRONG_IDENTIFY, part=name)) for name in IDENTIFY_FIELDS)
        return {name: int(hit.fault.parameters["value"]) for name, hit in hits if hit is not None}

    def _require_queue(self) -> None:
        """A fault may leave no queues."""
        hit = self._faults.ask(FaultAction.EXHAUST_RESOURCE, part=Resource.QUEUES) if self._faults.shown else None
        _require(hit is None, AdminStatus.INTERNAL_ERROR)

    def _set_features(self, sqe: np.void) -> AdminResult:
        _require(self._resources, AdminStatus.INVALID_FIELD)
        feature = FeatureDw10(sqe["dw10"]).feat_id
        _require(feature in (Feature.HSM_QUEUE_COUNT, Feature.AES_QUEUE_COUNT), AdminStatus.INVALID_OPCODE)
        return AdminResult(self._queue_counts(Feature(feature), AdminOpcode.SET_FEATURES))

    def _get_features(self, sqe: np.void) -> AdminResult:
        _require(self._resources, AdminStatus.INVALID_FIELD)
        feature = FeatureDw10(sqe["dw10"]).feat_id
        if feature == Feature.AES_FW_CAPS:
            return AdminResult(AES_FW_CAPS_GCM_WORKAROUND)
        _require(feature in (Feature.HSM_QUEUE_COUNT, Feature.AES_QUEUE_COUNT), AdminStatus.INVALID_OPCODE)
        return AdminResult(self._queue_counts(Feature(feature), AdminOpcode.GET_FEATURES))

    def _queue_counts(self, feature: Feature, opcode: AdminOpcode) -> int:
        """dw0 of a queue-count feature: what the function owns, 0's based, whatever was asked for."""
        kind, factor = ("hsm", 1) if feature is Feature.HSM_QUEUE_COUNT else ("aes", AES_QUEUES_PER_RESOURCE)
        count = factor * self._resources
        if (hit := self._faults.ask(FaultAction.GRANT_QUEUES, opcode=opcode, part=kind)) is not None:
            count = int(hit.fault.parameters[kind])
        last = (count - 1) % _COUNT_RANGE
        return QueueCounts.of(sqs=last, cqs=last)

    def _create_cq(self, sqe: np.void) -> AdminResult:
        queue, flags = QueueDw10(sqe["dw10"]), CreateCqDw11(sqe["dw11"])
        _require(flags.pc, AdminStatus.INTERNAL_ERROR)
        _require(queue.size, AdminStatus.INVALID_QUEUE_SIZE)
        _require(queue.id, AdminStatus.INVALID_QUEUE_ID)
        vectors = HSM_VECTORS if is_hsm_queue_id(queue.id) else AES_VECTORS
        _require(not flags.ien or flags.ivec in vectors, AdminStatus.INVALID_INTERRUPT_VECTOR)
        self._require_owned(queue.id)
        _require(not self._engine.cq_exists(queue.id), AdminStatus.INTERNAL_ERROR)
        self._require_queue()
        self._engine.create_cq(queue.id, int(sqe["prp1"]), queue.size + 1, flags.ivec if flags.ien else None)
        return AdminResult()

    def _create_sq(self, sqe: np.void) -> AdminResult:
        queue, flags = QueueDw10(sqe["dw10"]), CreateSqDw11(sqe["dw11"])
        _require(flags.pc, AdminStatus.INTERNAL_ERROR)
        _require(queue.size, AdminStatus.INVALID_QUEUE_SIZE)
        _require(flags.cqid, AdminStatus.INVALID_CQ_ID)
        _require(queue.id, AdminStatus.INVALID_QUEUE_ID)
        self._require_owned(flags.cqid)
        _require(self._engine.cq_exists(flags.cqid), AdminStatus.INTERNAL_ERROR)
        self._require_owned(queue.id)
        _require(not self._engine.sq_exists(queue.id), AdminStatus.INTERNAL_ERROR)
        # cqid is only checked for existence: completions go to the CQ with the SQ's id, without it the core refuses
        _require(self._engine.cq_exists(queue.id), AdminStatus.INTERNAL_ERROR)
        self._require_queue()
        self._engine.create_sq(queue.id, int(sqe["prp1"]), queue.size + 1, queue.id)
        return AdminResult()

    def _delete_sq(self, sqe: np.void) -> AdminResult:
        queue = QueueDw10(sqe["dw10"])
        _require(queue.id, AdminStatus.INVALID_QUEUE_ID)
        self._require_owned(queue.id)
        _require(self._engine.sq_exists(queue.id), AdminStatus.INTERNAL_ERROR)
        # the wait must not keep the owner of the function from disabling the controller
        with _released(self._lock):
            ended = self._engine.delete_sq(queue.id)
        _require(ended, AdminStatus.INTERNAL_ERROR)
        return AdminResult()

    def _delete_cq(self, sqe: np.void) -> AdminResult:
        queue = QueueDw10(sqe["dw10"])
        _require(queue.id, AdminStatus.INVALID_QUEUE_ID)
        self._require_owned(queue.id)
        _require(not self._engine.sq_exists(queue.id), AdminStatus.INVALID_QUEUE_DELETE)
        _require(self._engine.cq_exists(queue.id), AdminStatus.INTERNAL_ERROR)
        self._engine.delete_cq(queue.id)
        return AdminResult()

    def _set_resource_count(self, sqe: np.void) -> AdminResult:
        """Only a PF may; to a VF the opcode does not exist."""
        raise AdminError(AdminStatus.INVALID_OPCODE)

    def _get_resource_count(self, sqe: np.void) -> AdminResult:
        _require(sqe["dw10"] <= MAX_CONTROLLER_ID, AdminStatus.INVALID_FIELD)
        return AdminResult(self._resources if sqe["dw10"] == self._identity.controller_id else 0)

    def _migrate(self, sqe: np.void) -> AdminResult:
        """Live migration of VFs is the PF's business: refused before anything is fetched (spec 01 §14.9)."""
        raise AdminError(AdminStatus.INVALID_FIELD)

    def _require_owned(self, queue_id: int) -> None:
        check = check_id(queue_id, self._resources)
        _require(check is not IdCheck.OUT_OF_RANGE, AdminStatus.INVALID_QUEUE_ID)
        _require(check is IdCheck.OWNED, AdminStatus.INTERNAL_ERROR)
