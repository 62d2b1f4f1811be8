# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The user's side of a mailbox, over a model of one."""

from __future__ import annotations

import pytest

from ihsm import errors
from ihsm.bus import Mailbox
from ihsm_abi.doe import (
    DOE_CONTROL_OFFSET,
    DOE_READ_MAILBOX_OFFSET,
    DOE_WRITE_MAILBOX_OFFSET,
    PAYLOAD_MAX_BYTES,
    DataObject,
    DiscoveryAnswer,
    DoeFormatError,
)
from support.doe_model import ModelFunction

VENDOR, TYPE = 0x1234, 0x56


def echo(data: bytes) -> bytes:
    return data


def silence(data: bytes) -> None:
    return None


@pytest.mark.parametrize("size", [1, 3, 4, 5, 100, PAYLOAD_MAX_BYTES - 1, PAYLOAD_MAX_BYTES])
def test_what_is_sent_comes_back_in_whole_dwords(size: int) -> None:
    payload = bytes(range(1, 256)) * 17
    mailbox = Mailbox(ModelFunction(echo))
    for _ in range(2):
        answer = mailbox.exchange(VENDOR, TYPE, payload[:size])
        assert answer == payload[:size] + bytes(-size % 4)


@pytest.mark.parametrize("size", [0, PAYLOAD_MAX_BYTES + 1])
def test_a_payload_that_fits_no_object(size: int) -> None:
    function = ModelFunction(echo)
    with pytest.raises(errors.ArgumentError, match=f"payload: {size} bytes, must be 1 to 4088"):
        Mailbox(function).exchange(VENDOR, TYPE, bytes(size))
    assert function.accesses == []


def test_a_vendor_or_type_that_there_cannot_be() -> None:
    mailbox = Mailbox(ModelFunction(echo))
    with pytest.raises(errors.ArgumentError, match="vendor"):
        mailbox.exchange(0x10000, 0, b"data")
    with pytest.raises(errors.ArgumentError, match="type"):
        mailbox.exchange(0, 0x100, b"data")
    with pytest.raises(errors.ArgumentError, match="timeout_s"):
        mailbox.exchange(0, 0, b"data", -1.0)


def test_the_registers_as_the_standard_wants_them() -> None:
    function = ModelFunction(echo)
    Mailbox(function).exchange(VENDOR, TYPE, b"data")
    write, pop = DOE_WRITE_MAILBOX_OFFSET, DOE_READ_MAILBOX_OFFSET
    assert function.accesses == [
        (write, bytes.fromhex("34125600")),
        (write, bytes.fromhex("03000000")),
        (write, b"data"),
        (DOE_CONTROL_OFFSET, bytes.fromhex("00000080")),
        *[(pop, bytes(4))] * 3,
    ]


def test_no_mailbox() -> None:
    function = ModelFunction(echo)
    function.without_mailbox()
    with pytest.raises(errors.MailboxNotFoundError, match=r"no mailbox for data objects.*VFIO hides"):
        Mailbox(function)


def test_no_answer_is_aborted_and_the_next_served() -> None:
    function = ModelFunction(silence)
    mailbox = Mailbox(function)
    with pytest.raises(errors.BusTimeoutError, match="no answer from the mailbox"):
        mailbox.exchange(VENDOR, TYPE, b"data", 0.0)
    assert function.accesses[-1] == (DOE_CONTROL_OFFSET, bytes.fromhex("01000000"))
    function.answer = echo
    assert mailbox.exchange(VENDOR, TYPE, b"data") == b"data"


def test_an_error_is_told_and_aborted() -> None:
    function = ModelFunction(silence)

    def fail(data: bytes) -> None:
        function.mailbox.fail()

    function.answer = fail
    mailbox = Mailbox(function)
    with pytest.raises(errors.MailboxError, match="with its error bit"):
        mailbox.exchange(VENDOR, TYPE, b"data")
    assert not function.mailbox.error


def test_what_others_have_left_is_aborted() -> None:
    function = ModelFunction(echo)
    mailbox = Mailbox(function)
    function.mailbox.fail()
    assert mailbox.exchange(VENDOR, TYPE, b"data") == b"data"
    function.mailbox.answer(b"answer of before")
    assert mailbox.exchange(VENDOR, TYPE, b"data") == b"data"


def test_a_mailbox_that_others_use() -> None:
    function = ModelFunction(echo)
    mailbox = Mailbox(function)
    function.mailbox.waiting = b"of another"
    with pytest.raises(errors.MailboxBusyError, match="busy for 0 s"):
        mailbox.exchange(VENDOR, TYPE, b"data", 0.0)
    assert function.accesses == []
    mailbox.abort()
    assert mailbox.exchange(VENDOR, TYPE, b"data") == b"data"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (DataObject(VENDOR, TYPE + 1, b"data").encode(), "type 87 answers one of"),
        (DataObject(VENDOR + 1, TYPE, b"data").encode(), "vendor 0x1235"),
        (bytes.fromhex("34125600 02000000"), "an answer of 2 dwords"),
        (bytes.fromhex("34125600 00000000 00000000"), "an answer of 0 dwords"),
        (bytes.fromhex("34125600 01040000 00000000"), "an answer of 1025 dwords"),
    ],
)
def test_an_answer_to_something_else(answer: bytes, says: str) -> None:
    function = ModelFunction(lambda data: answer)
    with pytest.raises(errors.ProtocolError, match=says):
        Mailbox(function).exchange(VENDOR, TYPE, b"data")


def test_an_answer_that_ends_too_early() -> None:
    function = ModelFunction(lambda data: bytes.fromhex("34125600 04000000 00000000"))
    with pytest.raises(errors.MailboxError, match="came into error while its answer was read"):
        Mailbox(function).exchange(VENDOR, TYPE, b"data")


def discovery(answers: dict[int, DiscoveryAnswer]) -> ModelFunction:
    def answer(data: bytes) -> bytes:
        word = answers.get(data[8], DiscoveryAnswer.of(vendor=0xFFFF))
        return DataObject(1, 0, word.to_bytes(4, "little")).encode()

    return ModelFunction(answer)


def test_discovery_follows_the_indexes() -> None:
    answers = {
        0: DiscoveryAnswer.of(vendor=1, type=0, next_index=7),
        7: DiscoveryAnswer.of(vendor=0x1234, type=9, next_index=0),
    }
    assert Mailbox(discovery(answers)).discover() == [(1, 0), (0x1234, 9)]


def test_discovery_that_does_not_end() -> None:
    with pytest.raises(errors.ProtocolError, match="does not end after 256"):
        Mailbox(discovery({0: DiscoveryAnswer.of(next_index=1), 1: DiscoveryAnswer.of(next_index=1)})).discover()
    with pytest.raises(errors.ProtocolError, match="knows no index 3"):
        Mailbox(discovery({0: DiscoveryAnswer.of(next_index=3)})).discover()


@pytest.mark.parametrize("data", ["", "0100000003000000", "010000000200000000000000", "0100000000000000" * 2])
def test_bytes_that_are_no_object(data: str) -> None:
    with pytest.raises(DoeFormatError):
        DataObject.decode(bytes.fromhex(data))


def test_an_object_is_decoded_as_it_was_encoded() -> None:
    data = DataObject(VENDOR, TYPE, b"12345").encode()
    assert data == bytes.fromhex("34125600 04000000") + b"12345\0\0\0"
    assert DataObject.decode(data) == DataObject(VENDOR, TYPE, b"12345\0\0\0")
    with pytest.raises(DoeFormatError, match="payload of 4089 bytes"):
        DataObject(VENDOR, TYPE, bytes(PAYLOAD_MAX_BYTES + 1)).encode()
