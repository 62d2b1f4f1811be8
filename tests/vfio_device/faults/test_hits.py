# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Which events faults hit, how often they are counted, and how long faults last."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from ihsm.bus import VfioUserFunction
from ihsm_abi.admin import AdminOpcode, AdminStatus
from ihsm_abi.ddi.headers import ApiRev, ReqHdr
from ihsm_abi.ddi.ops import DdiOp
from ihsm_abi.fault_actions import FaultAction, FaultPoint
from ihsm_abi.fault_table import ACTIONS
from ihsm_abi.faults import Fault, Match, When
from ihsm_abi.mbor import encode
from ihsm_abi.resources import FIRST_AES_QUEUE_ID
from ihsm_device.faults import FaultSet, TooManyFaultsError, UnknownFaultError
from ihsm_device.server import Server
from support.devices import DeviceUnderTest
from support.modules import ReversingModule
from support.polled import PolledDriver, hsm_sqe
from support.rig import EngineRig, aes_entry
from support.shown import IN_SESSION, LONG_MS, QUEUES, Sender, Shown
from support.waiting import HANG_S, until

ENVELOPE = bytes([0xA2, 0x18, 0])
WRONG = 0x4007


def wrong_ones(sender: Sender, count: int) -> list[bool]:
    """Whether each of so many commands is answered with the status WRONG."""
    found = []
    for _ in range(count):
        cid = sender.send()
        answered, status = sender.reap()
        assert answered == cid
        found.append(status == WRONG)
    return found


def wrong_status(shown: Shown, match: Match | None = None, when: When | None = None) -> int:
    return shown.show(FaultAction.WRONG_STATUS, match=match, when=when, status=WRONG)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (When(), [True] * 5),
        (When(nth=3), [False, False, True, True, True]),
        (When(count=2), [True, True, False, False, False]),
        (When(nth=2, count=1), [False, True, False, False, False]),
        (When(after_ms=LONG_MS), [False] * 5),
    ],
)
def test_which_of_the_events_are_hit(shown: Shown, sender: Sender, when: When, expected: list[bool]) -> None:
    fault = wrong_status(shown, Match(queue=sender.queue_id), when)
    assert wrong_ones(sender, 5) == expected
    assert shown.faults.hits(fault) == sum(expected)


def test_a_fault_begins_by_the_clock(shown: Shown, ready: PolledDriver) -> None:
    sender = Sender(ready, 1)
    wrong_status(shown, Match(queue=1), When(after_ms=20, for_ms=LONG_MS))
    until(lambda: wrong_ones(sender, 1) == [True], "its beginning")


def test_a_fault_ends_by_the_clock(shown: Shown, ready: PolledDriver) -> None:
    """Which a slow machine may see no command before."""
    sender = Sender(ready, 1)
    wrong_status(shown, Match(queue=1), When(for_ms=50))
    until(lambda: wrong_ones(sender, 1) == [False], "its end")


@pytest.mark.parametrize("queue_id", QUEUES)
def test_a_fault_is_of_one_queue(shown: Shown, ready: PolledDriver, queue_id: int) -> None:
    wrong_status(shown, Match(queue=queue_id))
    assert [wrong_ones(Sender(ready, each), 1) == [True] for each in QUEUES] == [each == queue_id for each in QUEUES]


def test_a_fault_is_of_one_opcode(shown: Shown, ready: PolledDriver) -> None:
    fault = wrong_status(shown, Match(queue=0, opcode=AdminOpcode.IDENTIFY))
    assert ready.run_admin(AdminOpcode.GET_RES_CNT, dw10=1).status == AdminStatus.SUCCESS
    assert shown.faults.hits(fault) == 0
    assert ready.run_admin(AdminOpcode.IDENTIFY, dw10=1, prp1=ready.page.iova).status == WRONG


def test_the_opcode_of_an_aes_command_is_its_cipher(shown: Shown, ready: PolledDriver) -> None:
    ring = ready.rings[FIRST_AES_QUEUE_ID]
    fault = wrong_status(shown, Match(queue=FIRST_AES_QUEUE_ID, opcode=1))
    Sender(ready, FIRST_AES_QUEUE_ID).run()
    assert shown.faults.hits(fault) == 0
    ring.run(aes_entry(ready.next_cid(), attr=1 << 8 | 5 << 3 | 1 << 2))
    assert shown.faults.hits(fault) == 1


@pytest.mark.parametrize("revision", [ApiRev(major=1, minor=0), None], ids=["revision", "no-revision"])
@pytest.mark.parametrize("action", [FaultAction.WRONG_STATUS, FaultAction.HOLD_COMMAND])
def test_a_fault_is_of_one_operation(
    shown: Shown, ready: PolledDriver, revision: ApiRev | None, action: FaultAction
) -> None:
    parameters = {"status": WRONG} if action is FaultAction.WRONG_STATUS else {}
    fault = shown.show(action, match=Match(operation=DdiOp.EccSign), **parameters)
    for operation in (DdiOp.GetApiRev, DdiOp.Hmac):
        ready.run_hsm(ENVELOPE + encode(ReqHdr(rev=revision, op=operation, sess_id=3)))
    for nonsense in (b"\xa2", ENVELOPE, ENVELOPE + b"\xa3\x18\x01", b"abc" * 20):
        ready.run_hsm(nonsense)
    assert shown.faults.hits(fault) == 0
    message = ENVELOPE + encode(ReqHdr(rev=revision, op=DdiOp.EccSign))
    ready.page.view[: len(message)] = np.frombuffer(message, np.uint8)
    source, destination = ready.page.iova, ready.answer_page.iova
    ready.rings[1].submit(
        hsm_sqe(
            ready.next_cid(),
            source=source,
            source_bytes=len(message),
            destination=destination,
            destination_bytes=4096,
        )
    )
    shown.until_hit(fault)
    shown.faults.clear()
    ready.rings[1].wait()


@pytest.mark.parametrize("queue_id", QUEUES[1:])
def test_a_fault_is_of_one_session(shown: Shown, ready: PolledDriver, queue_id: int) -> None:
    """The id in the entry, where an HSM command says that it is one."""
    fault = wrong_status(shown, Match(session=5))

    def run(session_id: int, control: int) -> None:
        cid = ready.next_cid()
        if queue_id == 1:
            entry = hsm_sqe(
                cid,
                source=ready.page.iova,
                source_bytes=3,
                destination=ready.answer_page.iova,
                destination_bytes=4096,
                control=control,
                session_id=session_id,
            )
        else:
            entry = aes_entry(cid, session_id=session_id)
        ready.rings[queue_id].run(entry)

    run(4, IN_SESSION)
    assert shown.faults.hits(fault) == 0
    if queue_id == 1:
        run(5, 0)
        assert shown.faults.hits(fault) == 0
    run(5, IN_SESSION)
    assert shown.faults.hits(fault) == 1


def test_the_first_fault_of_several_hits_and_all_count_the_event(shown: Shown, ready: PolledDriver) -> None:
    sender = Sender(ready, 1)
    one = wrong_status(shown, Match(queue=1), When(nth=2, count=1))
    other = shown.show(FaultAction.WRONG_STATUS, match=Match(queue=1), when=When(nth=2, count=2), status=1)
    statuses = []
    for _ in range(5):
        sender.send()
        statuses.append(sender.reap()[1])
    assert statuses == [0, WRONG, 1, 1, 0]
    assert [shown.faults.hits(each) for each in (one, other)] == [1, 2]


# -- faults come and go


def test_what_is_listed(shown: Shown, ready: PolledDriver) -> None:
    sender = Sender(ready, 1)
    one = wrong_status(shown, Match(queue=1), When(count=3))
    other = shown.show(FaultAction.NEVER_READY)
    wrong_ones(sender, 2)
    listed = shown.faults.list()
    assert [(each.number, each.fault.action, each.hits, each.left) for each in listed] == [
        (one, FaultAction.WRONG_STATUS, 2, 1),
        (other, FaultAction.NEVER_READY, 0, None),
    ]
    wrong_ones(sender, 2)
    assert shown.faults.list()[0].left == 0, "a fault that is spent stays"


def test_clear_ends_one_or_all(shown: Shown) -> None:
    faults = shown.faults
    numbers = [faults.add(Fault(FaultAction.HOLD_COMMAND)) for _ in range(3)]
    assert faults.clear(numbers[1]) == 1
    assert [each.number for each in faults.list()] == [numbers[0], numbers[2]]
    with pytest.raises(UnknownFaultError):
        faults.clear(numbers[1])
    with pytest.raises(UnknownFaultError):
        faults.hits(numbers[1])
    assert faults.clear() == 2
    assert faults.clear() == 0
    assert faults.add(Fault(FaultAction.HOLD_COMMAND)) not in numbers


@pytest.mark.parametrize("number", [0, -1, 7, 1 << 32, 1 << 70])
def test_an_id_that_no_fault_has(shown: Shown, number: int) -> None:
    with pytest.raises(UnknownFaultError):
        shown.faults.hits(number)
    with pytest.raises(UnknownFaultError):
        shown.faults.clear(number)


def test_there_is_room_for_so_many(shown: Shown) -> None:
    for _ in range(64):
        shown.faults.add(Fault(FaultAction.HOLD_COMMAND))
    with pytest.raises(TooManyFaultsError):
        shown.faults.add(Fault(FaultAction.HOLD_COMMAND))
    assert len(shown.faults.list()) == 64
    shown.faults.clear()
    shown.faults.add(Fault(FaultAction.HOLD_COMMAND))


def test_callbacks_tell_of_hits_ends_and_clearing(shown: Shown, ready: PolledDriver) -> None:
    told = threading.Semaphore(0)
    shown.faults.on_hit(told.release)
    fault = wrong_status(shown, Match(queue=1))
    Sender(ready, 1).send()
    assert told.acquire(timeout=HANG_S)
    assert shown.faults.hits(fault) == 1
    shown.faults.clear(fault)
    assert told.acquire(timeout=HANG_S)
    shown.faults.add(Fault(FaultAction.HOLD_COMMAND, when=When(for_ms=1)))
    assert told.acquire(timeout=HANG_S)


def test_a_callback_that_fails_is_no_end_of_the_others(shown: Shown, ready: PolledDriver) -> None:
    told = threading.Semaphore(0)

    def fail() -> None:
        raise RuntimeError

    shown.faults.on_hit(fail)
    shown.faults.on_hit(told.release)
    wrong_status(shown, Match(queue=1))
    for _ in range(2):
        Sender(ready, 1).send()
        assert told.acquire(timeout=HANG_S)


def test_faults_survive_resets(shown: Shown, ready: PolledDriver, device: DeviceUnderTest) -> None:
    fault = wrong_status(shown, Match(queue=1), When(nth=2))
    assert wrong_ones(Sender(ready, 1), 1) == [False]
    ready.disable()
    device.level_reset()
    until(lambda: ready.csts == 0, "the reset")
    ready.enable()
    ready.create_pair(1)
    assert wrong_ones(Sender(ready, 1), 1) == [True]
    assert shown.faults.hits(fault) == 1


def test_faults_survive_clients_and_are_one_functions(socket_folder: Path) -> None:
    """Whoever the client is; the other function of the process does everything right."""
    server = Server([socket_folder / "a", socket_folder / "b"], lambda index: ReversingModule(), resources=1)
    server.start()
    try:
        shown = Shown(server.functions[0].faults)
        fault = wrong_status(shown)
        for path, expected in (("a", True), ("b", False), ("a", True)):
            with VfioUserFunction(socket_folder / path) as function:
                driver = PolledDriver(function)
                driver.enable()
                assert wrong_ones(Sender(driver, 0), 2) == [expected] * 2
                driver.close()
        assert shown.faults.hits(fault) == 4
    finally:
        server.stop()


def test_events_without_a_fault_of_their_kind_are_not_compared(shown: Shown, sender: Sender) -> None:
    shown.show(FaultAction.NEVER_READY)
    shown.show(FaultAction.LOSE_INTERRUPT, match=Match(vector=9))
    sender.run()


def test_an_engine_that_is_closed_lets_the_thread_go() -> None:
    before = threading.active_count()
    with EngineRig() as rig:
        faults = FaultSet(rig.engine)
        faults.add(Fault(FaultAction.HOLD_COMMAND))
    until(lambda: threading.active_count() == before, "the thread to end")
    faults.close()


def test_every_action_has_its_tests() -> None:
    """By name, in the files of this folder, but for one that would stop this process."""
    written = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    testable = set(FaultAction) - {FaultAction.PAUSE_PROCESS}
    assert [action for action in testable if f"FaultAction.{action.name}" not in written] == []
    assert {spec.point for spec in ACTIONS.values()} == set(FaultPoint)
