# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What IDE_KM and TDISP do to a served device, and what its client does to a locked interface, over the socket."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.bus import VfioUserFunction
from ihsm.bus.doe import Mailbox
from ihsm.control import ControlClient
from ihsm.ddi import Credential, KeyRequest, Partition, SoftwareTrustAnchor
from ihsm.driver import Controller, DriverOptions
from ihsm.errors import MailboxError
from ihsm.trace.replay import function_level_reset
from ihsm_abi.ddi.enums import EccCurve, KeyUsage
from support.process import ServeProcess, serve
from support.spdm_mailbox import requester_of
from support.trusted_io import (
    BARS,
    COMMAND,
    ERROR,
    LINK_CONTROL,
    LINK_STATUS,
    LOCKED,
    MEMORY_AND_MASTER,
    RUN,
    SECURE,
    SELECTIVE_CONTROL,
    SELECTIVE_STATUS,
    SLOTS,
    STREAM,
    UNLOCKED,
    TdispError,
    TrustedIo,
    control,
    key_prog,
    key_set,
    lock_body,
    read32,
    write32,
)
from support.waiting import HANG_S, until

READY: Final = 1
"""CSTS.RDY"""
FIRST, SECOND = 0x0108, 0x0200
HELD: Final = ["locked", "running"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    folder = tmp_path_factory.mktemp("sockets")
    ids = ("--requester-id", "01:01.0", "--requester-id", "02:00.0")
    with serve("--socket", str(folder / "s"), "--count", "2", *ids) as process:
        yield process


class Tsm(TrustedIo):
    """In a session with a function over its mailbox."""

    def __init__(self, path: Path, number: int, function: VfioUserFunction) -> None:
        self.path = path
        self.config = function
        self.requester = requester_of(Mailbox(function))
        super().__init__(self.requester.secured, number)
        self.renew()

    @property
    def status(self) -> dict[str, Any]:
        """Of the function."""
        with ControlClient(self.path) as client:
            return dict(client.status())

    @property
    def shown(self) -> str:
        """State of the interface, as `ihsm status` shows it."""
        return str(self.status["trust"]["interface"])

    def bring(self, place: str = "locked") -> None:
        """A selective stream that is secure, and an interface that is locked, or runs."""
        write32(self.config, SELECTIVE_CONTROL, control())
        self.set_keys()
        assert read32(self.config, SELECTIVE_STATUS) == SECURE
        self.lock()
        if place == "running":
            self.start()

    def renew(self) -> None:
        """A session."""
        self.requester.request = self.requester.response = None
        self.requester.negotiate()
        self.requester.read_chain()
        self.requester.open_session()


@pytest.fixture
def function(server: ServeProcess) -> Iterator[VfioUserFunction]:
    with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function:
        write32(function, COMMAND, MEMORY_AND_MASTER)
        yield function


@pytest.fixture
def tsm(server: ServeProcess, function: VfioUserFunction) -> Tsm:
    return Tsm(server.paths[0], FIRST, function)


def refused(tsm: Tsm, kind: int, body: bytes = b"") -> int:
    with pytest.raises(TdispError) as error:
        tsm.tdisp(kind, body)
    return error.value.code


def flip(function: VfioUserFunction, offset: int, bit: int) -> None:
    write32(function, offset, read32(function, offset) ^ bit)


def at_work(function: VfioUserFunction) -> tuple[Controller, Partition]:
    """Its queues, and a partition with a key."""
    controller = Controller(function, DriverOptions(timeout_s=HANG_S))
    partition = Partition(controller)
    credential = Credential(id=secrets.token_bytes(16), pin=secrets.token_bytes(16))
    backup_key = partition.init_bk3(secrets.token_bytes(48)).masked_bk3
    partition.establish_credential(credential, backup_key, SoftwareTrustAnchor(ec.generate_private_key(ec.SECP384R1())))
    session = partition.open_session(credential)
    session.generate_ecc_key(EccCurve.P384, KeyRequest(KeyUsage.SignVerify))
    return controller, partition


def works(tsm: Tsm) -> bool:
    """Whether the function has queues and a provisioned partition; both or neither."""
    status = tsm.status
    found = (
        status["registers"]["CSTS"] & READY == READY,
        bool(status["queues"]),
        status["module"]["state"] == "ready",
        status["module"]["vault"]["entries"] > 0,
    )
    assert len(set(found)) == 1, found
    return found[0]


def test_a_life_without_trouble(tsm: Tsm, function: VfioUserFunction) -> None:
    assert (tsm.state, tsm.shown) == (UNLOCKED, "CONFIG_UNLOCKED")
    tsm.bring("locked")
    assert (tsm.state, tsm.shown) == (LOCKED, "CONFIG_LOCKED")
    bars = [read32(function, BARS + 8 * number) & ~0xF for number in range(3)]
    report = tsm.report()
    assert [struct.unpack_from("<Q", report, 16 + 16 * number)[0] * 4096 for number in range(3)] == bars
    assert struct.unpack_from("<H", report, 4)[0] == int.from_bytes(function.read_config(0xB2, 2), "little")
    tsm.start()
    assert (tsm.state, tsm.shown) == (RUN, "RUN")
    assert tsm.report() == report
    controller, _ = at_work(function)
    assert works(tsm)
    tsm.stop()
    assert (tsm.state, tsm.shown) == (UNLOCKED, "CONFIG_UNLOCKED")
    assert not works(tsm)
    controller.reset()
    assert tsm.status["registers"]["CSTS"] & READY
    tsm.lock()


def test_registers_of_the_port(tsm: Tsm, function: VfioUserFunction) -> None:
    write32(function, LINK_CONTROL, control())
    tsm.set_keys()
    answer = tsm.ide(bytes(3))
    assert answer[:7] == bytes([1, 0, 0, FIRST & 0xFF, FIRST >> 8, 0, 0])
    assert answer[7:] == function.read_config(LINK_CONTROL - 8, 36)
    assert struct.unpack_from("<I", answer, 7 + 12)[0] == SECURE == read32(function, LINK_STATUS)


RID_LIMIT, RID_BASE = SELECTIVE_STATUS + 4, SELECTIVE_STATUS + 8
BEHIND_RID: Final = RID_BASE + 4
"""Where the first address association would be, if the stream had one."""


def test_a_stream_as_linux_has_it(tsm: Tsm, function: VfioUserFunction) -> None:
    """Registers, the id without the enable bit, keys, the bit: secure at the next read. Then off, then zeros."""
    default_stream = 1 << 22
    for register, value in (
        (RID_LIMIT, 0x0008 << 8),
        (RID_BASE, 0x0008 << 8 | 1),
        (SELECTIVE_CONTROL, control(enabled=0) | default_stream),
    ):
        write32(function, register, value)
        assert read32(function, register) == value
    tsm.set_keys()
    assert read32(function, SELECTIVE_STATUS) == 0
    assert refused(tsm, 0x83, lock_body()) == 1
    write32(function, SELECTIVE_CONTROL, control() | default_stream)
    assert read32(function, SELECTIVE_STATUS) == SECURE
    tsm.lock()
    tsm.start()
    write32(function, SELECTIVE_CONTROL, 0)
    assert (read32(function, SELECTIVE_STATUS), tsm.state) == (0, ERROR)
    for register in (SELECTIVE_CONTROL, RID_BASE, RID_LIMIT):
        write32(function, register, 0)
        assert read32(function, register) == 0
    tsm.stop()


@pytest.mark.parametrize(
    ("at", "status"), [(LINK_CONTROL, LINK_STATUS), (SELECTIVE_CONTROL, SELECTIVE_STATUS)], ids=["link", "selective"]
)
def test_a_stream_as_intels_validator_has_it(tsm: Tsm, function: VfioUserFunction, at: int, status: int) -> None:
    """Refreshes go from one set of keys to the other and back without a stop, and nobody behind the stream notices."""
    for register, value in ((RID_LIMIT, 0xFFFF00), (RID_BASE, 1)):
        write32(function, register, value)
    for number, value in enumerate((0xFFF00001, 0xFFFFFFFF, 0xFFFFFFFF)):
        write32(function, BEHIND_RID + 4 * number, value)
        assert read32(function, BEHIND_RID + 4 * number) == 0, "it has no such registers"
    write32(function, at, control(enabled=0))
    assert tsm.ide(bytes(3))[0] == 1
    assert tsm.ide(key_prog(STREAM + 1))[4] == 3
    tsm.set_keys()
    flip(function, at, 1)
    assert read32(function, status) == SECURE
    tsm.lock(flags=7, offset=0xD0000000)
    tsm.start()
    for key_set_number in (1, 0, 1):
        for slot in SLOTS:
            assert tsm.ide(key_prog(slot=slot | key_set_number))[4] == 0
            assert read32(function, status) == SECURE
        for slot in SLOTS:
            tsm.ide(key_set(4, slot=slot | key_set_number))
            assert read32(function, status) == SECURE
    assert tsm.state == RUN
    flip(function, at, 1)
    assert (read32(function, status), tsm.state) == (0, ERROR)
    for slot in SLOTS:
        assert tsm.ide(key_set(5, slot=slot | 1)) == key_set(6, slot=slot | 1), "with keys and without"
    tsm.stop()
    flip(function, at, 1)
    assert read32(function, status) == SECURE, "the other set is whole"


BREAKS: Final[dict[str, Callable[[VfioUserFunction], None]]] = {
    "memory space": lambda function: flip(function, COMMAND, 2),
    "bus master": lambda function: flip(function, COMMAND, 4),
    "one byte of the command register": lambda function: function.write_config(COMMAND, b"\0"),
    "the whole header": lambda function: function.write_config(0, bytes(64)),
    **{
        f"BAR{index}": lambda function, index=index: flip(function, BARS + 4 * index, 0x80000000)  # type: ignore[misc]
        for index in range(6)
    },
    "sizing": lambda function: write32(function, BARS, 0xFFFFFFFF),
    "stream off": lambda function: write32(function, SELECTIVE_CONTROL, control(enabled=0)),
    "stream's id": lambda function: write32(function, SELECTIVE_CONTROL, control(STREAM + 1)),
}


@pytest.mark.parametrize("place", HELD)
@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_a_locked_interface(tsm: Tsm, function: VfioUserFunction, name: str, place: str) -> None:
    tsm.bring(place)
    BREAKS[name](function)
    assert tsm.shown == "ERROR", "at once"
    assert tsm.state == ERROR
    assert refused(tsm, 0x86, tsm.nonce) == 4
    assert refused(tsm, 0x84, bytes(4)) == 4
    tsm.stop()
    assert tsm.state == UNLOCKED


@pytest.mark.parametrize(
    "change",
    [
        lambda function: write32(function, COMMAND, MEMORY_AND_MASTER),
        lambda function: write32(function, COMMAND, MEMORY_AND_MASTER | 0x100),
        lambda function: write32(function, BARS, read32(function, BARS)),
        lambda function: write32(function, BARS, read32(function, BARS) ^ 0xFFF),
        lambda function: function.write_config(0xB2, b"\0\x80"),
        lambda function: write32(function, LINK_CONTROL, control(1)),
        lambda function: function.write_config(0x0C, b"\x10\0\0\0"),
    ],
    ids=["command", "SERR", "the same BAR", "bits of a BAR that are none", "MSI-X", "other stream", "cache line"],
)
def test_what_does_not_break_it(
    tsm: Tsm, function: VfioUserFunction, change: Callable[[VfioUserFunction], None]
) -> None:
    tsm.bring("running")
    change(function)
    assert tsm.state == RUN


def test_what_breaks_it_ends_the_work_at_once(tsm: Tsm, function: VfioUserFunction) -> None:
    tsm.bring("running")
    at_work(function)
    assert works(tsm)
    flip(function, BARS, 0x1000)
    assert not works(tsm)
    assert tsm.state == ERROR


@pytest.mark.parametrize("place", ["unlocked", *HELD])
@pytest.mark.parametrize("how", ["function level reset", "device reset"])
def test_resets(tsm: Tsm, function: VfioUserFunction, place: str, how: str) -> None:
    if place != "unlocked":
        tsm.bring(place)
    if how == "device reset":
        function.reset()
    else:
        function_level_reset(function)
    after = UNLOCKED if place == "unlocked" else ERROR
    assert tsm.status["trust"]["selective_stream"] == "INSECURE"
    assert tsm.shown == ("CONFIG_UNLOCKED" if place == "unlocked" else "ERROR")
    with pytest.raises(MailboxError):
        tsm.requester.send_record(tsm.requester.seal(b"\x12\x81\0\0"))
    tsm.renew()
    assert tsm.state == after
    tsm.stop()
    tsm.bring("running")
    assert tsm.state == RUN


@pytest.mark.parametrize("how", ["END_SESSION", "K_SET_STOP", "a spoilt record", "another negotiation"])
@pytest.mark.parametrize("place", HELD)
def test_what_stops_it(tsm: Tsm, function: VfioUserFunction, how: str, place: str) -> None:
    tsm.bring(place)
    at_work(function)
    assert works(tsm)
    match how:
        case "END_SESSION":
            tsm.requester.end_session()
        case "K_SET_STOP":
            tsm.ide(key_set(5, slot=0))
        case "a spoilt record":
            record = tsm.requester.seal(bytes(4))
            tsm.requester.send_record(record[:-1] + bytes([record[-1] ^ 1]))
        case _:
            tsm.requester.version()
    assert tsm.shown == "CONFIG_UNLOCKED"
    assert not works(tsm)
    assert read32(function, SELECTIVE_STATUS) == 0
    assert (tsm.status["trust"]["session"] is None) == (how != "K_SET_STOP")


def test_a_client_that_goes_leaves_nothing(server: ServeProcess) -> None:
    for place in HELD:
        with VfioUserFunction(server.paths[0], timeout_s=HANG_S) as function:
            tsm = Tsm(server.paths[0], FIRST, function)
            assert tsm.state == UNLOCKED
            tsm.bring(place)
        until(lambda tsm=tsm: tsm.shown == "CONFIG_UNLOCKED", "the function is as at power-on")
        assert tsm.status["trust"]["selective_stream"] == "INSECURE"
    until(lambda: tsm.status["trust"]["session"] is None, "the session has gone")


def test_functions_do_not_know_each_other(server: ServeProcess, tsm: Tsm, function: VfioUserFunction) -> None:
    with VfioUserFunction(server.paths[1], timeout_s=HANG_S) as other_function:
        other = Tsm(server.paths[1], SECOND, other_function)
        other.bring("running")
        assert tsm.state == UNLOCKED
        assert refused(tsm, 0x83, lock_body()) == 1, "the other's stream"
        tsm.bring("locked")
        assert tsm.nonce != other.nonce
        assert refused(tsm, 0x86, other.nonce) == 0x102
        tsm.start()
        flip(function, BARS, 0x1000)
        assert (tsm.state, other.state) == (ERROR, RUN)
        other.stop()
        assert (tsm.state, other.state) == (ERROR, UNLOCKED)
        other.function = FIRST
        assert refused(other, 0x85) == 0x101


def test_status_tells_of_it(tsm: Tsm) -> None:
    tsm.bring("locked")
    session = tsm.requester.session.to_bytes(4, "little")[::-1].hex()
    assert tsm.status["trust"] == {
        "negotiated": "ALGORITHMS",
        "session": {"id": session, "established": True},
        "interface": "CONFIG_LOCKED",
        "link_stream": "INSECURE",
        "selective_stream": "SECURE",
    }
