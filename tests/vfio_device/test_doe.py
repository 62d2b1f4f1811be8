# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The mailbox for data objects: its registers alone, against a model, and the thread that answers (PCIe 6.x 6.30)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm_abi.doe import (
    DOE_BYTES,
    DOE_CAPABILITIES_OFFSET,
    DOE_CONTROL_OFFSET,
    DOE_READ_MAILBOX_OFFSET,
    DOE_STATUS_OFFSET,
    DOE_WRITE_MAILBOX_OFFSET,
    OBJECT_DISCOVERY,
    OBJECT_MAX_BYTES,
    OBJECT_MAX_DWORDS,
    OBJECT_SECURED_SPDM,
    OBJECT_SPDM,
    PCI_SIG,
    DataObject,
    DiscoveryAnswer,
    DoeControl,
    DoeStatus,
)
from ihsm_device._native import ffi, lib
from ihsm_device.doe import Mailbox, Mailboxes
from ihsm_device.vfu import ResetType
from support.answering import Answering
from support.doe_model import MailboxModel
from support.waiting import HANG_S, until

GO, ABORT = (DoeControl.of(**{bit: 1}).to_bytes(4, "little") for bit in ("go", "abort"))
BUSY, ERROR, READY = (DoeStatus.of(**{bit: 1}) for bit in ("busy", "error", "object_ready"))
OBJECT = DataObject(PCI_SIG, OBJECT_SPDM, b"request").encode()
ANSWER = DataObject(PCI_SIG, OBJECT_SPDM, b"answer").encode()


def dwords(data: bytes) -> list[bytes]:
    return [data[at : at + 4] for at in range(0, len(data), 4)]


class Registers:
    """The registers of a mailbox, as whoever has the configuration space reaches them."""

    def __init__(self, handle: object) -> None:
        self.handle = handle
        self.capability = ffi.new(f"uint8_t[{DOE_BYTES}]")

    def write(self, register: int, data: bytes) -> None:
        lib.ihsm_doe_write(self.handle, register, data, len(data))

    def read(self, register: int) -> int:
        lib.ihsm_doe_show(self.handle, self.capability)
        return int.from_bytes(ffi.buffer(self.capability)[register : register + 4], "little")

    @property
    def status(self) -> int:
        return self.read(DOE_STATUS_OFFSET)

    def push(self, data: bytes) -> None:
        for dword in dwords(data):
            self.write(DOE_WRITE_MAILBOX_OFFSET, dword)

    def send(self, data: bytes) -> None:
        self.push(data)
        self.write(DOE_CONTROL_OFFSET, GO)

    def abort(self) -> None:
        self.write(DOE_CONTROL_OFFSET, ABORT)

    def pop(self) -> bytes:
        value = self.read(DOE_READ_MAILBOX_OFFSET).to_bytes(4, "little")
        self.write(DOE_READ_MAILBOX_OFFSET, bytes(4))
        return value

    def take(self) -> bytes:
        """What is left of an answer."""
        taken = b""
        while self.status & READY:
            taken += self.pop()
        return taken


class Rig(Registers):
    """A mailbox alone: what it tells is taken, and answered, by the test."""

    ID: Final = 7

    def __init__(self) -> None:
        self.line = lib.ihsm_doe_line_new()
        super().__init__(lib.ihsm_doe_new(self.line, self.ID))
        self.told = ffi.new("struct ihsm_doe_told *")

    def pull(self) -> int:
        """What the mailbox tells, which must have something to tell: else this does not return."""
        event = int(lib.ihsm_doe_pull(self.line, self.told))
        assert self.told.id == self.ID
        return event

    def pull_object(self) -> tuple[int, bytes]:
        """A transfer and its object."""
        assert self.pull() == lib.IHSM_DOE_OBJECT
        return int(self.told.transfer), bytes(ffi.buffer(self.told.data, self.told.size))

    def answer(self, transfer: int, data: bytes) -> bool:
        return bool(lib.ihsm_doe_answer(self.handle, transfer, data, len(data)))

    def close(self) -> None:
        lib.ihsm_doe_free(self.handle)
        lib.ihsm_doe_line_free(self.line)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_an_object_goes_and_its_answer_comes(rig: Rig) -> None:
    rig.push(OBJECT)
    assert rig.status == 0
    rig.write(DOE_CONTROL_OFFSET, GO)
    assert rig.status == BUSY
    transfer, data = rig.pull_object()
    assert (data, rig.status) == (OBJECT, BUSY)
    assert rig.answer(transfer, ANSWER)
    assert rig.status == READY
    assert [rig.pop() for _ in dwords(ANSWER)] == dwords(ANSWER)
    assert (rig.status, rig.read(DOE_READ_MAILBOX_OFFSET)) == (0, 0)


def test_reading_alone_takes_nothing(rig: Rig) -> None:
    rig.send(OBJECT)
    rig.answer(rig.pull_object()[0], ANSWER)
    for _ in range(3):
        assert rig.read(DOE_READ_MAILBOX_OFFSET).to_bytes(4, "little") == ANSWER[:4]
    assert rig.take() == ANSWER


@pytest.mark.parametrize("value", [bytes(4), b"\xff" * 4])
def test_any_value_pops(rig: Rig, value: bytes) -> None:
    rig.send(OBJECT)
    rig.answer(rig.pull_object()[0], ANSWER)
    rig.write(DOE_READ_MAILBOX_OFFSET, value)
    assert rig.take() == ANSWER[4:]


def object_of(count: int) -> bytes:
    """An object of so many dwords."""
    return (PCI_SIG).to_bytes(4, "little") + (count & 0x3FFFF).to_bytes(4, "little") + bytes(4 * count - 8)


@pytest.mark.parametrize("count", [3, 4, 5, 1023, OBJECT_MAX_DWORDS])
def test_every_length_that_an_object_may_have(rig: Rig, count: int) -> None:
    rig.send(object_of(count))
    transfer, data = rig.pull_object()
    assert data == object_of(count)
    assert rig.answer(transfer, data)
    assert rig.take() == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        OBJECT[:4],
        object_of(2),
        OBJECT[:8] + b"",
        OBJECT[:-4],
        OBJECT + bytes(4),
        OBJECT[:4] + bytes(4) + OBJECT[8:],
        OBJECT[:4] + (1 << 17).to_bytes(4, "little") + OBJECT[8:],
    ],
    ids=["nothing", "one", "two", "header", "short", "long", "zero", "huge"],
)
def test_wrong_lengths_are_errors_until_an_abort(rig: Rig, data: bytes) -> None:
    rig.send(data)
    assert rig.status == ERROR
    rig.send(OBJECT)
    rig.pop()
    assert rig.status == ERROR
    rig.abort()
    assert rig.status == 0
    rig.send(OBJECT)
    assert rig.pull_object()[1] == OBJECT


def test_reserved_bits_of_the_length_do_not_count(rig: Rig) -> None:
    length = int.from_bytes(OBJECT[4:8], "little") | 0xFFFC_0000
    rig.send(OBJECT[:4] + length.to_bytes(4, "little") + OBJECT[8:])
    assert rig.status == BUSY


def test_more_dwords_than_there_is_room_for(rig: Rig) -> None:
    rig.push(bytes(OBJECT_MAX_BYTES))
    assert rig.status == 0
    rig.push(bytes(4))
    assert rig.status == ERROR


def test_a_pop_without_a_dword(rig: Rig) -> None:
    rig.pop()
    assert rig.status == ERROR
    rig.abort()
    rig.send(OBJECT)
    rig.pop()
    assert rig.status == ERROR
    rig.abort()
    rig.send(OBJECT)
    rig.answer(rig.pull_object()[0], ANSWER)
    assert rig.take() == ANSWER
    rig.pop()
    assert rig.status == ERROR


def test_nothing_is_taken_while_an_object_is_answered(rig: Rig) -> None:
    rig.send(OBJECT)
    rig.push(bytes(4))
    assert rig.status == ERROR
    rig.abort()
    rig.send(OBJECT)
    rig.write(DOE_CONTROL_OFFSET, GO)
    assert rig.status == ERROR


def test_the_next_object_is_written_beside_an_answer_and_not_sent_before_it_was_read(rig: Rig) -> None:
    rig.send(OBJECT)
    rig.answer(rig.pull_object()[0], ANSWER)
    rig.push(OBJECT)
    assert rig.take() == ANSWER
    rig.write(DOE_CONTROL_OFFSET, GO)
    rig.answer(rig.pull_object()[0], ANSWER)
    rig.send(OBJECT)
    assert rig.status == ERROR


@pytest.mark.parametrize("width", [0, 1, 2, 3, 5, 8, 16])
@pytest.mark.parametrize("register", range(0, DOE_BYTES, 4))
def test_odd_widths_change_nothing(rig: Rig, register: int, width: int) -> None:
    rig.push(OBJECT)
    rig.write(register, b"\xff" * width)
    rig.write(DOE_CONTROL_OFFSET, GO)
    assert rig.pull_object()[1] == OBJECT


@pytest.mark.parametrize("offset", [at for at in range(DOE_BYTES) if at % 4 or at < DOE_CONTROL_OFFSET])
def test_odd_offsets_and_registers_that_are_read_only(rig: Rig, offset: int) -> None:
    rig.push(OBJECT)
    rig.write(offset, b"\xff" * 4)
    rig.write(DOE_STATUS_OFFSET, b"\xff" * 4)
    rig.write(DOE_CONTROL_OFFSET, (0x7FFF_FFFE).to_bytes(4, "little"))
    assert rig.status == 0
    rig.write(DOE_CONTROL_OFFSET, GO)
    assert rig.pull_object()[1] == OBJECT


def test_control_and_write_mailbox_read_zero(rig: Rig) -> None:
    rig.push(OBJECT)
    assert [rig.read(at) for at in (DOE_CAPABILITIES_OFFSET, DOE_CONTROL_OFFSET, DOE_WRITE_MAILBOX_OFFSET)] == [0] * 3


def test_abort_goes_before_go(rig: Rig) -> None:
    rig.push(OBJECT)
    rig.write(DOE_CONTROL_OFFSET, DoeControl.of(abort=1, go=1).to_bytes(4, "little"))
    assert rig.status == 0
    rig.write(DOE_CONTROL_OFFSET, GO)
    assert rig.status == ERROR


def begun(rig: Rig) -> None:
    rig.push(OBJECT[:8])


def sent(rig: Rig) -> None:
    rig.send(OBJECT)


def taken(rig: Rig) -> None:
    rig.send(OBJECT)
    rig.pull_object()


def answered(rig: Rig) -> None:
    taken(rig)
    assert rig.answer(int(rig.told.transfer), ANSWER)


def half_read(rig: Rig) -> None:
    answered(rig)
    rig.pop()


def in_error(rig: Rig) -> None:
    rig.pop()


@pytest.mark.parametrize("state", [begun, sent, taken, answered, half_read, in_error])
def test_an_abort_in_each_state(rig: Rig, state: Callable[[Rig], None]) -> None:
    state(rig)
    late = int(rig.told.transfer)
    rig.abort()
    assert (rig.status, rig.read(DOE_READ_MAILBOX_OFFSET)) == (0, 0)
    assert not rig.answer(late, ANSWER)
    rig.send(OBJECT)
    transfer, data = rig.pull_object()
    assert data == OBJECT
    assert not rig.answer(transfer - 1, ANSWER)
    assert rig.answer(transfer, ANSWER)
    assert rig.take() == ANSWER


@pytest.mark.parametrize("state", [begun, sent, taken, answered, half_read, in_error])
def test_a_reset_in_each_state(rig: Rig, state: Callable[[Rig], None]) -> None:
    """It is told of, before the next object, where an object had been taken."""
    state(rig)
    late = int(rig.told.transfer)
    told = state in (taken, answered, half_read)
    for cause in (ResetType.FUNCTION_LEVEL, ResetType.LOST_CONNECTION):
        lib.ihsm_doe_reset(rig.handle, cause)
    assert rig.status == 0
    assert not rig.answer(late, ANSWER)
    rig.send(OBJECT)
    if told:
        assert rig.pull() == lib.IHSM_DOE_FORGET
        assert rig.told.causes == 1 << ResetType.FUNCTION_LEVEL
    assert rig.pull_object()[1] == OBJECT


def test_resets_are_told_of_at_once_and_together(rig: Rig) -> None:
    taken(rig)
    lib.ihsm_doe_reset(rig.handle, ResetType.DEVICE)
    assert rig.pull() == lib.IHSM_DOE_FORGET
    assert rig.told.causes == 1 << ResetType.DEVICE


@pytest.mark.parametrize("size", [0, 4, 8, 13, OBJECT_MAX_BYTES + 4])
def test_an_answer_that_is_no_object(rig: Rig, size: int) -> None:
    taken(rig)
    assert not rig.answer(int(rig.told.transfer), bytes(size))
    assert rig.status == BUSY


def test_one_answer_is_all(rig: Rig) -> None:
    taken(rig)
    transfer = int(rig.told.transfer)
    assert rig.answer(transfer, ANSWER)
    assert not rig.answer(transfer, OBJECT)
    lib.ihsm_doe_fail(rig.handle, transfer)
    lib.ihsm_doe_discard(rig.handle, transfer)
    assert rig.take() == ANSWER


def test_mailboxes_have_their_turns() -> None:
    line = lib.ihsm_doe_line_new()
    rigs = [Registers(lib.ihsm_doe_new(line, number)) for number in range(3)]
    told = ffi.new("struct ihsm_doe_told *")
    for order in ([2, 0, 1], [1, 2, 0]):
        for number in order:
            rigs[number].abort()
            rigs[number].send(OBJECT)
        served = []
        for _ in order:
            assert lib.ihsm_doe_pull(line, told) == lib.IHSM_DOE_OBJECT
            served.append(told.id)
        assert served == order
    for number in (0, 1, 2):
        rigs[number].abort()
        rigs[number].send(OBJECT)
    for number in (1, 2, 0):  # from the middle, the end and the beginning of the line
        lib.ihsm_doe_free(rigs[number].handle)
    lib.ihsm_doe_line_close(line)
    assert lib.ihsm_doe_pull(line, told) == lib.IHSM_DOE_CLOSED
    lib.ihsm_doe_line_free(line)


def test_an_object_that_nobody_has_answered_fails_when_the_next_is_pulled() -> None:
    """That of the mailbox which was pulled last, and no object that has come since."""
    line = lib.ihsm_doe_line_new()
    left, reset, aborted, gone = rigs = [Registers(lib.ihsm_doe_new(line, number)) for number in range(4)]
    told = ffi.new("struct ihsm_doe_told *")
    for rig in rigs:
        rig.send(OBJECT)
    for rig in rigs:
        assert lib.ihsm_doe_pull(line, told) == lib.IHSM_DOE_OBJECT
        if rig is reset:
            lib.ihsm_doe_reset(rig.handle, ResetType.DEVICE)
            rig.send(OBJECT)
        elif rig is aborted:
            rig.abort()
            rig.send(OBJECT)
    assert [rig.status for rig in rigs] == [ERROR, BUSY, BUSY, BUSY]
    lib.ihsm_doe_free(gone.handle)
    for event in (lib.IHSM_DOE_FORGET, lib.IHSM_DOE_OBJECT, lib.IHSM_DOE_OBJECT):
        assert lib.ihsm_doe_pull(line, told) == event
    assert [left.status, reset.status, aborted.status] == [ERROR, BUSY, ERROR]
    for rig in (left, reset, aborted):
        lib.ihsm_doe_free(rig.handle)
    lib.ihsm_doe_line_free(line)


Step = tuple[str, int, bytes]
DWORDS = st.one_of(st.binary(min_size=4, max_size=4), st.sampled_from([GO, ABORT, bytes(4), b"\3\0\0\0"]))
STEPS = st.one_of(
    st.tuples(
        st.just("write"),
        st.sampled_from(range(0, DOE_BYTES + 4, 2)),
        st.one_of(DWORDS, DWORDS, st.binary(max_size=9)),
    ),
    st.tuples(st.just("push"), st.integers(0, 1030), st.just(b"")),
    st.tuples(st.just("send"), st.integers(3, 12), st.just(b"")),
    st.tuples(st.sampled_from(["answer", "late", "fail", "discard"]), st.integers(3, 12), st.just(b"")),
    st.tuples(st.just("pop"), st.integers(1, 13), st.just(b"")),
    st.tuples(st.just("reset"), st.sampled_from(ResetType), st.just(b"")),
)


def perform(rig: Rig, model: MailboxModel, step: Step, transfer: int | None) -> int | None:
    """One step of both; the transfer that has been taken and not answered."""
    kind, number, data = step
    if kind == "write":
        rig.write(number, data)
        model.write(number, data)
    elif kind in ("push", "send"):
        for dword in dwords(object_of(number) if kind == "send" else bytes(4 * number)):
            rig.write(DOE_WRITE_MAILBOX_OFFSET, dword)
            model.write(DOE_WRITE_MAILBOX_OFFSET, dword)
        if kind == "send":
            rig.write(DOE_CONTROL_OFFSET, GO)
            model.write(DOE_CONTROL_OFFSET, GO)
    elif kind == "pop":
        for _ in range(number):
            rig.write(DOE_READ_MAILBOX_OFFSET, bytes(4))
            model.write(DOE_READ_MAILBOX_OFFSET, bytes(4))
    elif kind == "reset":
        lib.ihsm_doe_reset(rig.handle, number)
        model.reset()
    elif kind == "late":
        assert not rig.answer(12345, ANSWER)
    elif model.waiting is not None:
        while rig.pull() == lib.IHSM_DOE_FORGET:
            pass
        assert bytes(ffi.buffer(rig.told.data, rig.told.size)) == model.waiting
        transfer = int(rig.told.transfer)
        if kind == "answer":
            assert rig.answer(transfer, object_of(number))
            model.answer(object_of(number))
        elif kind == "fail":
            lib.ihsm_doe_fail(rig.handle, transfer)
            model.fail()
        else:
            lib.ihsm_doe_discard(rig.handle, transfer)
            model.discard()
    elif transfer is not None:
        assert not rig.answer(transfer, object_of(number))
    return transfer


@given(st.lists(STEPS, max_size=40))
def test_whatever_happens_it_is_as_the_model_has_it(steps: list[Step]) -> None:
    rig, model, transfer = Rig(), MailboxModel(), None
    try:
        for step in steps:
            transfer = perform(rig, model, step, transfer)
            for register in (DOE_STATUS_OFFSET, DOE_READ_MAILBOX_OFFSET):
                assert rig.read(register) == model.read(register), (step, register)
    finally:
        rig.close()


@dataclass
class Served:
    """Mailboxes with their thread, and one mailbox of it."""

    mailboxes: Mailboxes
    registers: Registers
    objects: Answering

    def ask(self, vendor: int, type: int, payload: bytes) -> tuple[int, bytes]:
        """Status at the end of an exchange, and the payload of the answer."""
        self.registers.abort()
        self.registers.send(DataObject(vendor, type, payload).encode())
        until(lambda: not self.registers.status & BUSY, "the object is dealt with")
        status = self.registers.status
        taken = self.registers.take()
        return status, DataObject.decode(taken).payload if taken else b""


@pytest.fixture
def served() -> Iterator[Served]:
    mailboxes, objects = Mailboxes(), Answering()
    registers = Registers(mailboxes.add(0, objects).handle)
    mailboxes.start()
    yield Served(mailboxes, registers, objects)
    mailboxes.stop()
    mailboxes.close()


@pytest.mark.parametrize(
    ("index", "answer"),
    [
        (0, DiscoveryAnswer.of(vendor=PCI_SIG, type=OBJECT_DISCOVERY, next_index=1)),
        (1, DiscoveryAnswer.of(vendor=PCI_SIG, type=OBJECT_SPDM, next_index=2)),
        (2, DiscoveryAnswer.of(vendor=PCI_SIG, type=OBJECT_SECURED_SPDM, next_index=0)),
        (3, DiscoveryAnswer.of(vendor=0xFFFF)),
        (255, DiscoveryAnswer.of(vendor=0xFFFF)),
    ],
)
def test_discovery(served: Served, index: int, answer: DiscoveryAnswer) -> None:
    for reserved in (0, 0xFFFF_FF00):
        request = (index | reserved).to_bytes(4, "little")
        assert served.ask(PCI_SIG, OBJECT_DISCOVERY, request) == (READY, answer.to_bytes(4, "little"))
    assert served.objects.events == []


def test_discovery_of_a_wrong_length(served: Served) -> None:
    assert served.ask(PCI_SIG, OBJECT_DISCOVERY, bytes(8)) == (ERROR, b"")


@pytest.mark.parametrize("type", [OBJECT_SPDM, OBJECT_SECURED_SPDM])
def test_spdm_is_for_the_objects_of_the_function(served: Served, type: int) -> None:
    assert served.ask(PCI_SIG, type, b"data") == (READY, b"data")
    assert served.objects.events == [DataObject(PCI_SIG, type, b"data").encode()]


@pytest.mark.parametrize(("vendor", "type"), [(PCI_SIG, 3), (PCI_SIG, 255), (0, 1), (2, 1), (0xFFFF, 0)])
def test_objects_that_there_are_not_have_no_answer(served: Served, vendor: int, type: int) -> None:
    """They are discarded and no error: the next object is served without an abort."""
    assert served.ask(vendor, type, b"data") == (0, b"")
    served.registers.send(OBJECT)
    until(lambda: bool(served.registers.status & READY), "the next is answered")
    assert served.objects.events == [OBJECT]


@pytest.mark.parametrize("answer", [None, b"", bytes(8), bytes(13), bytes(OBJECT_MAX_BYTES + 4)])
def test_no_answer_is_an_error(served: Served, answer: bytes | None) -> None:
    served.objects.reply = lambda data: answer
    assert served.ask(PCI_SIG, OBJECT_SPDM, b"data") == (ERROR, b"")
    served.objects.reply = lambda data: data
    assert served.ask(PCI_SIG, OBJECT_SPDM, b"data") == (READY, b"data")


def test_an_exception_is_an_error_and_the_thread_goes_on(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    def fails(data: bytes) -> bytes:
        raise RuntimeError("broken responder")

    served.objects.reply = fails
    assert served.ask(PCI_SIG, OBJECT_SPDM, b"data") == (ERROR, b"")
    assert "a data object of 12 bytes failed" in caplog.text
    served.objects.reply = lambda data: data
    assert served.ask(PCI_SIG, OBJECT_SPDM, b"data") == (READY, b"data")


def test_without_memory_to_take_an_object_it_fails_and_the_thread_goes_on(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(mailbox: Mailbox, transfer: int, data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(Mailbox, "answer", fails)
    assert served.ask(PCI_SIG, OBJECT_SPDM, b"data") == (ERROR, b"")
    assert "no memory for a data object" in caplog.text
    monkeypatch.undo()
    assert served.ask(PCI_SIG, OBJECT_SPDM, b"data") == (READY, b"data")


def test_an_answer_that_comes_behind_a_reset_is_dropped_and_then_forgotten(served: Served) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(data: bytes) -> bytes:
        entered.set()
        assert leave.wait(HANG_S)
        return ANSWER

    served.objects.reply = slow
    served.registers.send(OBJECT)
    assert entered.wait(HANG_S)
    lib.ihsm_doe_reset(served.registers.handle, ResetType.LOST_CONNECTION)
    served.objects.reply = lambda data: data
    served.registers.send(OBJECT)
    leave.set()
    until(lambda: bool(served.registers.status & READY), "the object behind the reset is answered")
    assert served.registers.take() == OBJECT
    assert served.objects.events == [OBJECT, ResetType.LOST_CONNECTION, OBJECT]


def test_to_forget_may_fail(served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(cause: ResetType) -> None:
        raise RuntimeError("broken responder")

    served.ask(PCI_SIG, OBJECT_SPDM, b"data")
    monkeypatch.setattr(served.objects, "forget", fails)
    lib.ihsm_doe_reset(served.registers.handle, ResetType.DEVICE)
    assert served.ask(PCI_SIG, OBJECT_SPDM, b"data") == (READY, b"data")
    assert "forgetting what came of data objects failed" in caplog.text
