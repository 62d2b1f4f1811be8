# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Faults and readers of traces meet the express lane's commands as they meet Python's; counters count them alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from ihsm.control import ControlClient
from ihsm.ddi.transforms import Dialect
from ihsm.errors import CommandSeenError
from ihsm.testing import DeviceFaults
from ihsm.trace.live import TraceReader
from ihsm.trace.records import Completion, Entry, Mark, Queue, Record, Request, Response, Start, decode
from ihsm_abi.admin import Psf
from ihsm_abi.ddi import (
    API_REV,
    AesEncryptDecryptReq,
    AesOp,
    DdiOp,
    HmacReq,
    ReqHdr,
    RsaModExpReq,
    RsaOpType,
    encode_message,
)
from ihsm_abi.fault_actions import FaultAction
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.hsm_queue import ControlKind, SessionControl
from ihsm_abi.mbor import MborMap
from ihsm_abi.pci import PAGE_BYTES
from support.polled import hsm_sqe
from support.twins import FILL, QUEUE, Twin, twins
from support.waiting import HANG_S, until

OPTIONS: Final = ("--kind", "virtual")
IN_SESSION: Final = SessionControl.of(kind=ControlKind.IN_SESSION, id_valid=1)
OPERATIONS: Final = (DdiOp.Hmac, DdiOp.AesEncryptDecrypt, DdiOp.RsaModExp)
"""Whose answers are the same each time. RsaModExp is a slow thread's."""
LATE_MS: Final = 1


@dataclass(frozen=True)
class Case:
    """What a fault does to the first of two commands."""

    first: int
    """Entries in the completion queue as soon as the fault has hit and all is done that can be."""
    both: int
    """The same after the second command."""
    cleared: int
    """The same when the fault is cleared."""
    parameters: dict[str, Any] = field(default_factory=dict)
    hits: int = 1
    taken: int = 2
    """Commands for the express lane, where there is one."""


CASES: Final[dict[str, Case]] = {
    "drop-completion": Case(0, 1, 1),
    "delay-completion": Case(1, 2, 2, {"ms": LATE_MS}),
    "duplicate-completion": Case(2, 3, 3),
    "wrong-cid": Case(1, 2, 2, {"cid": 0xBEEF}),
    "wrong-phase": Case(0, 2, 2),
    "wrong-sqhd": Case(1, 2, 2, {"sqhd": 77}),
    "wrong-status": Case(1, 2, 2, {"status": 0x4007}),
    "reorder-completions": Case(0, 2, 2, {"behind": 1}),
    "corrupt-response": Case(1, 2, 2),
    "cut-response": Case(1, 2, 2, {"bytes": 20}),
    "hold-command": Case(0, 1, 2, taken=1),
    "fail-dma": Case(1, 2, 2, {"part": "source"}, taken=1),
    "fail-dma destination": Case(1, 2, 2, {"part": "destination"}),
    "never": Case(1, 2, 2, hits=2),
    "exhaust-resource": Case(1, 2, 2, {"resource": "requests"}, taken=1),
}
OTHERWISE_SEEN: Final = {FaultAction.RESET_FUNCTION}
"""Hits commands too, and ends the sessions that these tests share: test_withdrawal.py has resets."""


@dataclass(frozen=True)
class Observed:
    """What a client and an operator see of two commands."""

    completions: bytes
    pages: tuple[bytes, ...]
    hits: int
    told: str
    """Of commands that should not have been seen."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Twin, Twin]]:
    with twins(Path(tmp_path_factory.mktemp("twins")), OPTIONS) as made:
        yield made


def request(twin: Twin, operation: DdiOp) -> bytes:
    """A command that succeeds."""
    key_id = next(subject.key_id for subject in twin.subjects if subject.operation is operation)
    requests: dict[DdiOp, MborMap] = {
        DdiOp.Hmac: HmacReq(key_id=key_id, msg=b"message"),
        DdiOp.AesEncryptDecrypt: AesEncryptDecryptReq(key_id=key_id, op=AesOp.Encrypt, msg=bytes(64), iv=bytes(16)),
        DdiOp.RsaModExp: RsaModExpReq(key_id=key_id, y=b"\x01".ljust(256, b"\x07"), op_type=RsaOpType.Sign),
    }
    wire = Dialect(twin.client.info().kind).to_wire(requests[operation])
    return encode_message(ReqHdr(rev=API_REV, op=operation, sess_id=0), wire)


class Client:
    """Two commands, each with pages of its own, in a fresh queue of a twin."""

    def __init__(self, twin: Twin, operation: DdiOp) -> None:
        driver = twin.driver
        driver.delete_pair(QUEUE)
        self._ring = driver.create_pair(QUEUE)
        self._driver = driver
        self._message = request(twin, operation)
        self.pages = [driver.arena.allocate_pages(PAGE_BYTES) for _ in range(2)]
        driver.page.view[: len(self._message)] = np.frombuffer(self._message, np.uint8)
        for page in self.pages:
            page.view[:] = FILL

    def submit(self, number: int) -> None:
        self._ring.submit(
            hsm_sqe(
                number + 1,
                source=self._driver.page.iova,
                source_bytes=len(self._message),
                destination=self.pages[number].iova,
                destination_bytes=PAGE_BYTES,
                control=IN_SESSION,
                session_id=0,
            )
        )

    def until_there(self, entries: int) -> None:
        """The last of so many completions has come, and so have those before it."""
        if entries:
            until(lambda: bool(Psf(self._ring.cq[entries - 1]["psf"]).phase), f"{entries} completions", every_s=0)

    def completions(self) -> bytes:
        return self._ring.cq.tobytes()

    def close(self) -> None:
        """Leave a queue behind of which nothing has been read."""
        self._driver.delete_pair(QUEUE)
        self._driver.create_pair(QUEUE)
        for page in self.pages:
            page.release()


def status(twin: Twin) -> dict[str, Any]:
    """What the twins are to have in common of their status."""
    with ControlClient(twin.device.socket_path) as control:
        whole = control.status()
    for name in ("pid", "socket", "client", "open_files", "sandbox"):
        del whole[name]
    del whole["module"]["express"], whole["module"]["key_memory"], whole["counters"]["hsm_express"]
    return whole


def until_same_status(pair: tuple[Twin, Twin]) -> None:
    """A counter may go up after the completion that it counts."""
    until(lambda: status(pair[0]) == status(pair[1]), "the same status of both")


def observe(twin: Twin, operation: DdiOp, action: str, case: Case) -> Observed:
    client = Client(twin, operation)
    with DeviceFaults(twin.device) as faults:
        hit = faults.add(action.split()[0], **matching(action, operation), **case.parameters)
        client.submit(0)
        until(lambda: hit.hits == 1, "a hit")
        client.until_there(case.first)
        client.submit(1)
        client.until_there(case.both)
        hits, told = hit.hits, ""
        try:
            hit.clear()
        except CommandSeenError as error:
            told = str(error)
        client.until_there(case.cleared)
    observed = Observed(client.completions(), tuple(page.view.tobytes() for page in client.pages), hits, told)
    client.close()
    return observed


def matching(action: str, operation: DdiOp) -> dict[str, Any]:
    """What makes the fault hit the first command alone, as far as it takes that."""
    spec = ACTIONS[FaultAction(action.split()[0])]
    some: dict[str, Any] = {"operation": operation.name} if "operation" in spec.matches else {}
    return some | ({"count": 1} if "count" in spec.whens else {})


def test_no_fault_that_hits_commands_is_left_out() -> None:
    named = {FaultAction(action.split()[0]) for action in CASES}
    hitting = {action for action, spec in ACTIONS.items() if "operation" in spec.matches}
    assert hitting - named == OTHERWISE_SEEN


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
@pytest.mark.parametrize("action", CASES)
def test_a_fault_does_the_same(pair: tuple[Twin, Twin], action: str, operation: DdiOp) -> None:
    case = CASES[action]
    before = pair[0].taken()
    seen = [observe(twin, operation, action, case) for twin in pair]
    assert seen[0] == seen[1]
    assert seen[0].hits == case.hits
    assert bool(seen[0].told) == (action == "never")
    until(lambda: pair[0].taken() - before == case.taken, f"{case.taken} commands of the lane")
    until_same_status(pair)
    assert pair[1].taken() == 0


def records(twin: Twin, kinds: Sequence[str]) -> list[Record]:
    """What a reader of these kinds gets of three commands, but for the times."""
    with (
        TraceReader(twin.device.socket_path, [*kinds, "mark"]) as reader,
        ControlClient(twin.device.socket_path) as control,
    ):
        for operation in OPERATIONS:
            twin.driver.run_hsm(request(twin, operation), control=IN_SESSION, session_id=0)
        control.mark("end")
        found: list[Record] = []
        while not any(isinstance(record, Mark) for record in found):
            got = [decode(record) for record in reader.read(HANG_S)]
            assert got, "the mark does not come"
            found += got
    return [replace(record, time_ns=0) for record in found if not isinstance(record, Start | Mark | Queue)]


def test_a_reader_of_entries_sees_commands_of_the_lane(pair: tuple[Twin, Twin]) -> None:
    before = pair[0].taken()
    seen = [records(twin, ("entry", "completion")) for twin in pair]
    assert seen[0] == seen[1]
    assert [type(record) for record in seen[0]] == [Entry, Completion] * len(OPERATIONS)
    until(lambda: pair[0].taken() - before == len(OPERATIONS), "commands of the lane")


def test_messages_are_seen_by_way_of_python(pair: tuple[Twin, Twin]) -> None:
    before = pair[0].taken()
    seen = [records(twin, ("entry", "request", "response", "completion")) for twin in pair]
    assert seen[0] == seen[1]
    assert [type(record) for record in seen[0]] == [Entry, Request, Response, Completion] * len(OPERATIONS)
    assert pair[0].taken() == before
    until_same_status(pair)
