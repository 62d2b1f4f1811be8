# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Data objects over the socket: what clients that come, go, reset and misuse the mailbox see of each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from ihsm import errors
from ihsm.bus import Mailbox, VfioUserFunction
from ihsm.bus.config_space import capabilities, extended_capability
from ihsm.trace.replay import function_level_reset
from ihsm_abi.doe import (
    DOE_BYTES,
    DOE_CONTROL_OFFSET,
    DOE_READ_MAILBOX_OFFSET,
    DOE_STATUS_OFFSET,
    DOE_WRITE_MAILBOX_OFFSET,
    OBJECT_DISCOVERY,
    OBJECT_SECURED_SPDM,
    OBJECT_SPDM,
    PAYLOAD_MAX_BYTES,
    PCI_SIG,
    DataObject,
    DiscoveryAnswer,
    DoeControl,
    DoeStatus,
)
from ihsm_abi.ide import IDE_CAPABILITY_OFFSET, IdeCapability
from ihsm_abi.pci import ExtendedCapability
from ihsm_device import pci
from ihsm_device.server import Server
from ihsm_device.vfu import ResetType
from support.answering import Answering
from support.devices import open_device
from support.modules import ReversingModule
from support.waiting import HANG_S, until

GO = DoeControl.of(go=1).to_bytes(4, "little")
BUSY, ERROR, READY = (DoeStatus.of(**{bit: 1}) for bit in ("busy", "error", "object_ready"))
OBJECT = DataObject(PCI_SIG, OBJECT_SPDM, b"data").encode()


@pytest.fixture
def objects() -> Answering:
    return Answering()


@pytest.fixture
def function(socket_folder: Path, objects: Answering) -> Iterator[VfioUserFunction]:
    with open_device("vfio-user", socket_folder, objects=objects) as device:
        assert isinstance(device.function, VfioUserFunction)
        yield device.function


def status(function: VfioUserFunction) -> int:
    return int.from_bytes(function.read_config(pci.MAILBOX_POSITION + DOE_STATUS_OFFSET, 4), "little")


def push(function: VfioUserFunction, data: bytes) -> None:
    for at in range(0, len(data), 4):
        function.write_config(pci.MAILBOX_POSITION + DOE_WRITE_MAILBOX_OFFSET, data[at : at + 4])


def go(function: VfioUserFunction) -> None:
    function.write_config(pci.MAILBOX_POSITION + DOE_CONTROL_OFFSET, GO)


def test_the_capabilities_are_found(function: VfioUserFunction) -> None:
    names = [entry.name for entry in capabilities(function) if entry.extended]
    assert names == ["device serial number", "data object exchange", "integrity and data encryption"]
    position = extended_capability(function, ExtendedCapability.INTEGRITY_AND_DATA_ENCRYPTION)
    assert position == pci.IDE_POSITION
    word = IdeCapability(int.from_bytes(function.read_config(position + IDE_CAPABILITY_OFFSET, 4), "little"))
    assert word == IdeCapability.of(link_stream=1, selective_streams=1, ide_km=1)
    assert (word.link_classes, word.selective_number) == (0, 0), "one of each"


def test_discovery(function: VfioUserFunction, objects: Answering) -> None:
    assert Mailbox(function).discover() == [(1, 0), (1, 1), (1, 2)]
    assert objects.events == []


@dataclass(frozen=True)
class Manner:
    """How a driver accesses a mailbox, always by dwords."""

    aborts_first: bool
    """Whatever state it is in."""
    changes_control: bool
    """Reads the control register, and writes it back with a bit set."""
    pops_with: bytes | None
    """None: the dword that was read."""
    discovery_version: int = 0

    def set(self, function: VfioUserFunction, **bit: int) -> None:
        at = pci.MAILBOX_POSITION + DOE_CONTROL_OFFSET
        before = int.from_bytes(function.read_config(at, 4), "little") if self.changes_control else 0
        function.write_config(at, (before | DoeControl.of(**bit)).to_bytes(4, "little"))

    def exchange(self, function: VfioUserFunction, data: bytes) -> bytes:
        """An object for an object. The last dword is there until it is popped, and then nothing is, no error either."""
        at = pci.MAILBOX_POSITION + DOE_READ_MAILBOX_OFFSET
        if self.aborts_first:
            self.set(function, abort=1)
        assert not status(function) & (BUSY | ERROR)
        push(function, data)
        self.set(function, go=1)
        until(lambda: bool(status(function) & READY), "the answer is there")
        answer, size = b"", 8
        while len(answer) < size:
            assert status(function) == READY
            dword = function.read_config(at, 4)
            function.write_config(at, dword if self.pops_with is None else self.pops_with)
            answer += dword
            if len(answer) == 8:
                size = 4 * int.from_bytes(dword, "little")
        assert status(function) == 0
        return answer


MANNERS: Final = {
    "Linux 6.1": Manner(aborts_first=False, changes_control=False, pops_with=bytes(4)),
    "Linux of later": Manner(aborts_first=True, changes_control=False, pops_with=bytes(4), discovery_version=2),
    "Intel's validator": Manner(aborts_first=True, changes_control=True, pops_with=None, discovery_version=2),
}


@pytest.mark.parametrize("name", MANNERS)
def test_drivers_of_others(function: VfioUserFunction, name: str) -> None:
    """In their order of accesses; the version of discovery that a request names changes nothing (6.30.1.1)."""
    manner, found, index = MANNERS[name], [], 0
    while len(found) < 4:
        request = (index | manner.discovery_version << 8).to_bytes(4, "little")
        answer = manner.exchange(function, DataObject(PCI_SIG, OBJECT_DISCOVERY, request).encode())
        object = DataObject.decode(answer)
        assert (object.vendor, object.type, len(object.payload)) == (PCI_SIG, OBJECT_DISCOVERY, 4)
        word = DiscoveryAnswer(int.from_bytes(object.payload, "little"))
        found.append((word.vendor, word.type))
        if (index := word.next_index) == 0:
            break
    assert found == [(1, 0), (1, 1), (1, 2)]
    for _ in range(2):
        assert manner.exchange(function, OBJECT) == OBJECT


@pytest.mark.parametrize("size", [1, 4, 100, PAYLOAD_MAX_BYTES])
def test_objects_of_any_size(function: VfioUserFunction, objects: Answering, size: int) -> None:
    payload = bytes(range(256)) * 16
    for type in (OBJECT_SPDM, OBJECT_SECURED_SPDM):
        assert Mailbox(function).exchange(PCI_SIG, type, payload[:size]) == payload[:size] + bytes(-size % 4)
    assert len(objects.events) == 2


def test_a_device_without_answers_says_so(socket_folder: Path) -> None:
    with open_device("vfio-user", socket_folder) as device:
        mailbox = Mailbox(device.function)
        for _ in range(2):
            with pytest.raises(errors.MailboxError, match="with its error bit"):
                mailbox.exchange(PCI_SIG, OBJECT_SPDM, b"data")
        assert len(mailbox.discover()) == 3


def test_an_unknown_type_has_no_answer(function: VfioUserFunction) -> None:
    mailbox = Mailbox(function)
    with pytest.raises(errors.BusTimeoutError):
        mailbox.exchange(PCI_SIG, 9, b"data", 0.0)
    assert mailbox.exchange(PCI_SIG, OBJECT_SPDM, b"data") == b"data"


def test_accesses_across_the_registers(function: VfioUserFunction) -> None:
    """A read of any length sees the mailbox as it is; a write that is not one whole register does nothing."""
    push(function, OBJECT)
    for offset in range(-8, DOE_BYTES + 4):
        for size in (1, 2, 3, 5, 8, 64):
            function.write_config(pci.MAILBOX_POSITION + offset, b"\xff" * size)
    assert function.read_config(pci.MAILBOX_POSITION, 4) == pci.mailbox().data[:2] + b"\x01\x13"
    go(function)
    until(lambda: bool(status(function) & READY), "the answer is there")
    for start in (pci.MAILBOX_POSITION - 5, pci.MAILBOX_POSITION, pci.MAILBOX_POSITION + DOE_READ_MAILBOX_OFFSET):
        end = pci.MAILBOX_POSITION + DOE_BYTES
        assert function.read_config(start, end - start)[-4:] == OBJECT[:4]
    assert function.read_config(0, 4096)[pci.MAILBOX_POSITION + DOE_READ_MAILBOX_OFFSET :][:4] == OBJECT[:4]


def test_a_reset_drops_object_and_answer(function: VfioUserFunction, objects: Answering) -> None:
    mailbox = Mailbox(function)
    for reset, cause in (
        (lambda: function_level_reset(function), ResetType.FUNCTION_LEVEL),
        (function.reset, ResetType.DEVICE),
    ):
        mailbox.exchange(PCI_SIG, OBJECT_SPDM, b"data")
        push(function, OBJECT)
        reset()
        go(function)  # without data
        assert status(function) == ERROR
        mailbox.exchange(PCI_SIG, OBJECT_SPDM, b"data")
        assert objects.events == [OBJECT, cause, OBJECT]
        reset()
        until(lambda: len(objects.events) == 4, "the second reset is told of")
        objects.events.clear()


def test_resets_of_an_idle_mailbox_wake_nobody(function: VfioUserFunction, objects: Answering) -> None:
    for _ in range(3):
        function.reset()
    Mailbox(function).exchange(PCI_SIG, OBJECT_SPDM, b"data")
    assert objects.events == [OBJECT]


def test_the_next_client_finds_nothing(socket_folder: Path, objects: Answering) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(data: bytes) -> bytes:
        entered.set()
        assert leave.wait(HANG_S)
        return data

    objects.reply = slow
    server = Server(
        [socket_folder / "f.sock"], lambda index: ReversingModule(), make_objects=lambda index, interface: objects
    )
    server.start()
    try:
        with VfioUserFunction(socket_folder / "f.sock") as first:
            push(first, OBJECT)
            go(first)
            assert entered.wait(HANG_S)
            assert status(first) == BUSY
        with VfioUserFunction(socket_folder / "f.sock", wait_s=HANG_S) as second:
            assert status(second) == 0
            leave.set()
            assert Mailbox(second).exchange(PCI_SIG, OBJECT_SPDM, b"next", HANG_S) == b"next"
    finally:
        leave.set()
        server.stop()
    assert [type(event) for event in objects.events[:3]] == [bytes, ResetType, bytes]
    assert objects.events[1] is ResetType.LOST_CONNECTION


def test_functions_have_mailboxes_of_their_own(socket_folder: Path) -> None:
    answering = [Answering(), Answering()]
    paths = [socket_folder / "f.sock", socket_folder / "f.sock.1"]
    server = Server(paths, lambda index: ReversingModule(), make_objects=lambda index, interface: answering[index])
    server.start()
    try:
        with VfioUserFunction(paths[0]) as zero, VfioUserFunction(paths[1]) as one:
            push(zero, OBJECT)
            assert Mailbox(one).exchange(PCI_SIG, OBJECT_SPDM, b"of one") == b"of one\0\0"
            go(zero)
            until(lambda: bool(status(zero) & READY), "the other's answer is there")
            one.reset()
            assert status(zero) == READY
        assert answering[0].events[0] == OBJECT
        assert len(answering[1].events) >= 1
    finally:
        server.stop()
