# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Admin queue: one method per command (spec 01 §6)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from ihsm.arguments import integer
from ihsm.bus import DmaArena
from ihsm.driver.completion import CompletionLine
from ihsm.driver.doorbells import Doorbells
from ihsm.driver.queue_pair import QueuePair
from ihsm.driver.rings import ADMIN_RING
from ihsm.errors import AdminCommandError
from ihsm_abi import admin
from ihsm_abi.admin import AdminOpcode, AdminStatus, Feature, Psf, QueueCounts
from ihsm_abi.resources import ADMIN_QUEUE_ID

ADMIN_ENTRIES: Final = 16
ADMIN_TIMEOUT_S: Final = 30.0
QUEUE_COUNT_REQUEST: Final = 128
"""What the Linux driver asks for, as is; the answer says what there is (spec 01 §6.5)."""


class QueuePriority(IntEnum):
    """`qprio` of CREATE_SQ; the device takes it as information only."""

    HIGH = 1
    LOW = 3


@dataclass(frozen=True, slots=True)
class Identity:
    """Controller identity (spec 01 §6.4); text fields without their padding."""

    vendor_id: int
    subsystem_vendor_id: int
    serial_number: str
    firmware_revision: str
    controller_id: int
    version: int
    svn: int
    hsm_sqe_bytes: int
    hsm_cqe_bytes: int
    aes_sqe_bytes: int
    aes_cqe_bytes: int

    @classmethod
    def parse(cls, page: NDArray[np.uint8]) -> Self:
        """Decode the first bytes of an identify page."""
        record = page[: admin.IDENTIFY.itemsize].view(admin.IDENTIFY)[0]

        def entry_bytes(name: str) -> int:
            return 1 << (int(record[name]) & 0xF)  # low nibble: the maximum

        def text(name: str) -> str:
            return bytes(record[name]).decode("ascii", "replace").rstrip(" \0")

        return cls(
            vendor_id=int(record["vid"]),
            subsystem_vendor_id=int(record["ssvid"]),
            serial_number=text("sn"),
            firmware_revision=text("fr"),
            controller_id=int(record["ctrl_id"]),
            version=int(record["ver"]),
            svn=int(record["svn"]),
            hsm_sqe_bytes=entry_bytes("cp_sqes"),
            hsm_cqe_bytes=entry_bytes("cp_cqes"),
            aes_sqe_bytes=entry_bytes("fp_sqes"),
            aes_cqe_bytes=entry_bytes("fp_cqes"),
        )


class AdminQueue(QueuePair):
    """Queue 0. Each method waits for its command and raises `AdminCommandError` unless it succeeds."""

    def __init__(self, arena: DmaArena, bells: Doorbells, line: CompletionLine) -> None:
        """Allocate the rings."""
        super().__init__(ADMIN_RING, ADMIN_QUEUE_ID, ADMIN_ENTRIES, arena, bells, line)

    def execute(self, opcode: int, *, prp1: int = 0, dw10: int = 0, dw11: int = 0) -> int:
        """Any command; returns dword 0 of its completion.

        Raises:
            AdminCommandError: status other than 0.
            CommandTimeoutError: no completion within 30 s.
        """
        for argument, value, bits in (
            ("opcode", opcode, 8),
            ("prp1", prp1, 64),
            ("dw10", dw10, 32),
            ("dw11", dw11, 32),
        ):
            integer("admin command", argument, value, 0, (1 << bits) - 1)
        entry = np.zeros(1, admin.ADMIN_SQE)
        entry["opc"], entry["prp1"], entry["dw10"], entry["dw11"] = opcode, prp1, dw10, dw11
        cqe = self.submit(entry, ADMIN_TIMEOUT_S).result()[0]
        status = Psf(int(cqe["psf"])).status
        if status:
            raise AdminCommandError(_name(AdminOpcode, opcode), status, _name(AdminStatus, status))
        return int(cqe["dw0"])

    def identify(self, page_iova: int) -> None:
        """IDENTIFY into a page at an I/O address."""
        self.execute(AdminOpcode.IDENTIFY, prp1=page_iova, dw10=admin.IdentifyDw10.of(cns=admin.CNS_CONTROLLER))

    def queue_count(self, feature: Feature) -> int:
        """SET_FEATURES of a queue count: how many pairs the function has."""
        asked = QueueCounts.of(sqs=QUEUE_COUNT_REQUEST, cqs=QUEUE_COUNT_REQUEST)
        dw10 = admin.FeatureDw10.of(feat_id=feature)
        granted = QueueCounts(self.execute(AdminOpcode.SET_FEATURES, dw10=dw10, dw11=asked))
        return (min(granted.sqs, granted.cqs) + 1) & 0xFFFF

    def aes_firmware_caps(self) -> int:
        """GET_FEATURES of the AES firmware capabilities."""
        return self.execute(AdminOpcode.GET_FEATURES, dw10=admin.FeatureDw10.of(feat_id=Feature.AES_FW_CAPS))

    def create_cq(self, queue: QueuePair, vector: int | None) -> None:
        """CREATE_CQ with the queue's ring; without a vector it raises no interrupt."""
        dw11 = admin.CreateCqDw11.of(pc=1, ien=int(vector is not None), ivec=vector or 0)
        self.execute(AdminOpcode.CREATE_CQ, prp1=queue.cq_iova, dw10=_id_and_size(queue), dw11=dw11)

    def create_sq(self, queue: QueuePair) -> None:
        """CREATE_SQ on the CQ of the same id."""
        priority = QueuePriority.HIGH if queue.queue_id % 2 else QueuePriority.LOW
        dw11 = admin.CreateSqDw11.of(pc=1, qprio=priority, cqid=queue.queue_id)
        self.execute(AdminOpcode.CREATE_SQ, prp1=queue.sq_iova, dw10=_id_and_size(queue), dw11=dw11)

    def delete_sq(self, queue: QueuePair) -> None:
        """DELETE_SQ: no completion of the queue follows this command's own (spec 01 §8.2)."""
        self.execute(AdminOpcode.DELETE_SQ, dw10=admin.QueueDw10.of(id=queue.queue_id))

    def delete_cq(self, queue: QueuePair) -> None:
        """DELETE_CQ, after its SQ."""
        self.execute(AdminOpcode.DELETE_CQ, dw10=admin.QueueDw10.of(id=queue.queue_id))


def _id_and_size(queue: QueuePair) -> int:
    return admin.QueueDw10.of(id=queue.queue_id, size=queue.entries - 1)


def _name(kind: type[IntEnum], value: int) -> str:
    try:
        return kind(value).name
    except ValueError:
        return f"{kind.__name__} {value:#x}"
