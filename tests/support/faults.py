# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Table-driven tests of error conditions: good commands, faults to put into them, pairs of faults.

A fault belongs to one row of `ddi-conditions.json`. Two faults in one command show which check comes first; that needs
faults that do not stand in each other's way, so each names the parts of the command it touches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from conformance.conditions import Row, rows_of
from ihsm_abi.ddi import API_REV, OPERATIONS, ApiRev, DdiOp, ReqHdr, encode_message
from ihsm_abi.hsm_queue import ControlKind
from ihsm_abi.mbor import MborMap
from support.hsm import ModuleReply, Scene, Stage


@dataclass
class Draft:
    """A command before it is sent."""

    scene: Scene
    op: DdiOp
    inputs: dict[str, Any]
    """What the request is made from."""
    request: Any = None
    """Data map in wire form."""
    rev: ApiRev | None = API_REV
    header_id: int | None = None
    queue_id: int | None = None
    queue_kind: ControlKind = ControlKind.NONE
    message: bytes = b""

    def replace(self, **changes: Any) -> None:
        """Change fields of the request."""
        self.request = dataclasses.replace(self.request, **changes)

    def replace_in(self, name: str, **changes: Any) -> None:
        """Change fields of a nested map of the request."""
        self.replace(**{name: dataclasses.replace(getattr(self.request, name), **changes)})

    def encode(self) -> bytes:
        """The message as it stands."""
        return encode_message(ReqHdr(rev=self.rev, op=self.op, sess_id=self.header_id), self.request)


Change = Callable[[Draft], None]


@dataclass(frozen=True)
class Fault:
    """What makes one check fail; phases that a fault does not need are left out."""

    row: str
    touches: frozenset[str]
    arrange: Callable[[Scene], None] | None = None
    """Before the command is made: state of the device."""
    plain: Change | None = None
    """The inputs of the request."""
    wire: Change | None = None
    """The request in wire form."""
    header: Change | None = None
    """Header and queue entry."""
    late: Callable[[Scene], None] | None = None
    """After the command was made: state of the device."""
    raw: Change | None = None
    """The encoded message."""
    fresh: bool = False
    """Needs a partition that was never used."""

    def compatible(self, other: Fault) -> bool:
        """Whether both can be put into one command."""
        return not self.touches & other.touches


def fault(row: str, *touches: str, **phases: Any) -> Fault:
    """Short form of `Fault`."""
    return Fault(row, frozenset(touches), **phases)


@dataclass(frozen=True)
class Subject:
    """One operation under test."""

    op: DdiOp
    arrange: Callable[[Scene], int | None]
    """Bring the device into a state in which the good command succeeds; returns the session to use."""
    inputs: Callable[[Scene], dict[str, Any]]
    request: Callable[[Draft], MborMap]
    """Make the request, in wire form."""
    faults: tuple[Fault, ...]

    @property
    def name(self) -> str:
        """Name of the operation."""
        return self.op.name


@dataclass(frozen=True)
class Case:
    """One command to send and the row whose status must come back."""

    subject: Subject
    faults: tuple[Fault, ...]
    row: Row

    @property
    def id(self) -> str:
        """Name of the test case."""
        return f"{self.subject.name}-{'+'.join(fault.row for fault in self.faults)}"


def cases(subject: Subject, kind: str) -> Iterator[Case]:
    """Every fault alone, and with the nearest later and earlier ones that it can be combined with."""
    by_name = {row.id: row for row in rows_of(subject.name, kind)}
    ordered = sorted((f for f in subject.faults if f.row in by_name), key=lambda f: by_name[f.row].order)
    pairs = set()
    for index, one in enumerate(ordered):
        yield Case(subject, (one,), by_name[one.row])
        order = by_name[one.row].order
        later = [f for f in ordered[index:] if by_name[f.row].order > order and one.compatible(f)]
        earlier = [f for f in ordered[:index] if by_name[f.row].order < order and one.compatible(f)]
        if later:
            pairs.add((one, later[0]))
        if earlier:
            pairs.add((earlier[-1], one))
    for first, second in sorted(pairs, key=lambda pair: (ordered.index(pair[0]), ordered.index(pair[1]))):
        yield Case(subject, (first, second), by_name[first.row])


@dataclass
class Outcome:
    """What a case led to."""

    draft: Draft
    reply: ModuleReply
    nonce_before: bytes = field(repr=False)

    @property
    def nonce_replaced(self) -> bool:
        """Whether the command used up the nonce."""
        return bool(self.draft.scene.state.nonce != self.nonce_before)


def play(case: Case, stage: Stage) -> Outcome:
    """Put the faults into a good command and send it."""
    fresh = any(f.fresh for f in case.faults)
    scene = stage.fresh() if fresh else stage.clean()
    session_id = case.subject.arrange(scene)
    for f in case.faults:
        if f.arrange is not None:
            f.arrange(scene)
    draft = make(case.subject, scene, session_id, [f.plain for f in case.faults if f.plain])
    for phase in ("wire", "header"):
        for f in case.faults:
            change = getattr(f, phase)
            if change is not None:
                change(draft)
    draft.message = draft.encode()
    for f in case.faults:
        if f.raw is not None:
            f.raw(draft)
    for f in case.faults:
        if f.late is not None:
            f.late(scene)
    nonce = scene.state.nonce
    reply = scene.send(draft.message, draft.queue_kind, draft.queue_id)
    return Outcome(draft, reply, nonce)


def make(subject: Subject, scene: Scene, session_id: int | None, plain: list[Change] | None = None) -> Draft:
    """The good command, but for changes of its inputs."""
    draft = Draft(scene, subject.op, subject.inputs(scene))
    draft.queue_kind = OPERATIONS[subject.op].kind
    draft.header_id = draft.queue_id = session_id
    if subject.op == DdiOp.GetApiRev:
        draft.rev = None
    for change in plain or ():
        change(draft)
    draft.request = subject.request(draft)
    return draft
