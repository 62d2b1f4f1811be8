# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Order of the checks of queue commands (spec 01 §14.4), on an engine that says what a test wants it to say.

A real engine cannot have a submission queue without its completion queue, so that not every order shows through a ring.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest

from ihsm_abi.admin import AdminOpcode, AdminStatus, CreateCqDw11, CreateSqDw11, QueueDw10
from ihsm_device.admin import AdminCommands, AdminError, ControllerIdentity
from ihsm_device.faults import NoFaults
from support.polled import admin_sqe

RESOURCES: Final = 2
BEYOND: Final = 3
OUT_OF_RANGE: Final = 66
ALL: Final = frozenset({1, 2, BEYOND, OUT_OF_RANGE, 256, 259})


@dataclass
class SaidEngine:
    """An engine that has the queues it is said to have, whatever else is the case; `done` is what it was made to do."""

    cqs: frozenset[int]
    sqs: frozenset[int]
    ends: bool
    done: list[str] = field(default_factory=list)

    def cq_exists(self, queue_id: int) -> bool:
        return queue_id in self.cqs

    def sq_exists(self, queue_id: int) -> bool:
        return queue_id in self.sqs

    def create_cq(self, *arguments: object) -> None:
        self.done.append("create_cq")

    def create_sq(self, *arguments: object) -> None:
        self.done.append("create_sq")

    def delete_sq(self, queue_id: int) -> bool:
        self.done.append("delete_sq")
        return self.ends

    def delete_cq(self, queue_id: int) -> None:
        self.done.append("delete_cq")


@dataclass(frozen=True)
class Draft:
    """A command that succeeds, and the queues there are."""

    opcode: AdminOpcode
    id: int = 1
    size: int = 15
    pc: int = 1
    ien: int = 1
    ivec: int = 1
    cqid: int = 2
    cqs: frozenset[int] = ALL
    sqs: frozenset[int] = frozenset()
    ends: bool = True

    def status(self) -> tuple[AdminStatus, list[str]]:
        """What the command ends with, and what the engine was made to do."""
        engine: Any = SaidEngine(self.cqs, self.sqs, self.ends)
        lock = threading.Lock()
        commands = AdminCommands(ControllerIdentity(1, "1", 1), RESOURCES, engine, lock, NoFaults())
        if self.opcode is AdminOpcode.CREATE_CQ:
            dw11 = CreateCqDw11.of(pc=self.pc, ien=self.ien, ivec=self.ivec)
        else:
            dw11 = CreateSqDw11.of(pc=self.pc, qprio=1, cqid=self.cqid)
        with lock:
            try:
                commands.execute(admin_sqe(self.opcode, 1, dw10=QueueDw10.of(id=self.id, size=self.size), dw11=dw11))
            except AdminError as error:
                return error.status, engine.done
        return AdminStatus.SUCCESS, engine.done


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a draft."""

    name: str
    status: AdminStatus
    changes: dict[str, Any]


def fault(name: str, status: AdminStatus, **changes: Any) -> Fault:
    return Fault(name, status, changes)


INTERNAL, BAD_ID = AdminStatus.INTERNAL_ERROR, AdminStatus.INVALID_QUEUE_ID
GOOD: Final = {
    AdminOpcode.CREATE_CQ: Draft(AdminOpcode.CREATE_CQ, cqs=frozenset()),
    AdminOpcode.CREATE_SQ: Draft(AdminOpcode.CREATE_SQ),
    AdminOpcode.DELETE_SQ: Draft(AdminOpcode.DELETE_SQ, sqs=ALL),
    AdminOpcode.DELETE_CQ: Draft(AdminOpcode.DELETE_CQ),
}
FAULTS: Final = {
    AdminOpcode.CREATE_CQ: (
        fault("not contiguous", INTERNAL, pc=0),
        fault("no size", AdminStatus.INVALID_QUEUE_SIZE, size=0),
        fault("no id", BAD_ID, id=0),
        fault("vector", AdminStatus.INVALID_INTERRUPT_VECTOR, ivec=0),
        fault("id out of range", BAD_ID, id=OUT_OF_RANGE),
        fault("id beyond resources", INTERNAL, id=BEYOND),
        fault("exists", INTERNAL, cqs=ALL),
    ),
    AdminOpcode.CREATE_SQ: (
        fault("not contiguous", INTERNAL, pc=0),
        fault("no size", AdminStatus.INVALID_QUEUE_SIZE, size=0),
        fault("no cqid", AdminStatus.INVALID_CQ_ID, cqid=0),
        fault("no id", BAD_ID, id=0),
        fault("cqid out of range", BAD_ID, cqid=OUT_OF_RANGE),
        fault("cqid beyond resources", INTERNAL, cqid=BEYOND),
        fault("no CQ", INTERNAL, cqs=ALL - {2}),
        fault("id out of range", BAD_ID, id=OUT_OF_RANGE),
        fault("id beyond resources", INTERNAL, id=BEYOND),
        fault("exists", INTERNAL, sqs=ALL),
        fault("no CQ of its own id", INTERNAL, cqs=ALL - {1}),
    ),
    AdminOpcode.DELETE_SQ: (
        fault("no id", BAD_ID, id=0),
        fault("id out of range", BAD_ID, id=OUT_OF_RANGE),
        fault("id beyond resources", INTERNAL, id=BEYOND),
        fault("does not exist", INTERNAL, sqs=frozenset()),
        fault("goes otherwise", INTERNAL, ends=False),
    ),
    AdminOpcode.DELETE_CQ: (
        fault("no id", BAD_ID, id=0),
        fault("id out of range", BAD_ID, id=OUT_OF_RANGE),
        fault("id beyond resources", INTERNAL, id=BEYOND),
        fault("its SQ exists", AdminStatus.INVALID_QUEUE_DELETE, sqs=ALL),
        fault("does not exist", INTERNAL, cqs=frozenset()),
    ),
}
"""In the order of the checks."""


def combinations() -> list[Any]:
    """Each fault alone, and each with every later one that does not change the same field."""
    cases = []
    for opcode, faults in FAULTS.items():
        cases += [pytest.param(opcode, [alone], id=f"{opcode.name}: {alone.name}") for alone in faults]
        for earlier, later in itertools.combinations(faults, 2):
            if not earlier.changes.keys() & later.changes.keys():
                name = f"{opcode.name}: {earlier.name} before {later.name}"
                cases.append(pytest.param(opcode, [earlier, later], id=name))
    return cases


@pytest.mark.parametrize(("opcode", "faults"), combinations())
def test_the_first_check_that_fails_decides(opcode: AdminOpcode, faults: list[Fault]) -> None:
    draft = GOOD[opcode]
    for each in faults:
        draft = replace(draft, **each.changes)
    status, done = draft.status()
    assert status == faults[0].status
    assert done == (["delete_sq"] if faults[0].name == "goes otherwise" else [])


@pytest.mark.parametrize("opcode", GOOD, ids=lambda opcode: opcode.name)
def test_without_a_fault_the_engine_does_it(opcode: AdminOpcode) -> None:
    assert GOOD[opcode].status() == (AdminStatus.SUCCESS, [opcode.name.lower()])
