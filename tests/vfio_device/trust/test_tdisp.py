# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""TDISP: a table of answers, every message in each state and with each field wrong (spec 06 §2.4, §2.5)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import pytest

from ihsm_device.trust.interface_id import InterfaceId
from ihsm_device.trust.report import interface_report
from support.spdm_requester import ErrorAnswerError
from support.trusted_io import (
    ERROR,
    FUNCTION,
    LOCKED,
    RUN,
    STREAM,
    UNLOCKED,
    Config,
    TdispError,
    control,
    key_set,
    lock_body,
    message,
    vendor_defined,
)
from support.trusted_session import TrustedSession

PLACES: Final = ("bare", "ready", "locked", "run", "error")
"""Unlocked without a secure stream, unlocked with one, and the other states."""
STATES: Final = dict(zip(PLACES, (UNLOCKED, UNLOCKED, LOCKED, RUN, ERROR), strict=True))
VERSION, CAPABILITIES, LOCK, REPORT, STATE, START, STOP = range(0x81, 0x88)
MATRIX: Final = {
    # An error's number, or the state afterwards.
    #                     bare       ready      locked     run        error
    ("VERSION", VERSION): "unlocked  unlocked   locked     run        error",
    ("CAPS", CAPABILITIES): "unlocked unlocked  locked     run        error",
    ("LOCK", LOCK): "       1         locked     4          4          4",
    ("REPORT", REPORT): "   4         4          locked     run        4",
    ("STATE", STATE): "     unlocked  unlocked   locked     run        error",
    ("START", START): "     4         4          run        4          4",
    ("STOP", STOP): "       unlocked  unlocked   unlocked   unlocked   unlocked",
    **{(f"{kind:#x}", kind): "7 7 7 7 7" for kind in (0x80, 0x88, 0x89, 0x8A, 0x8B, 0x8C, 0xFF, 0x01, 0x7F, 0x00)},
}  # fmt: skip
NAMES: Final = {"unlocked": UNLOCKED, "locked": LOCKED, "run": RUN, "error": ERROR}


def bring(tio: TrustedSession, config: Config, place: str) -> None:
    """Come that far."""
    config.controls(selective=control())
    if place == "bare":
        return
    tio.set_keys()
    if place == "ready":
        return
    tio.lock()
    if place == "run":
        tio.start()
    if place == "error":
        config.registers.command ^= 2
        assert config.follow()


def body(tio: TrustedSession, kind: int) -> bytes:
    """A sound one."""
    bodies = {CAPABILITIES: bytes(4), LOCK: lock_body(), REPORT: struct.pack("<HH", 0, 100), START: tio.nonce}
    return bodies.get(kind, b"")


def refused(tio: TrustedSession, request: bytes) -> int:
    with pytest.raises(TdispError) as error:
        tio.raw(request)
    assert error.value.data == (request[1] if error.value.code == 7 else 0)
    return error.value.code


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("named", MATRIX, ids=lambda named: named[0])
def test_messages_in_every_state(tio: TrustedSession, config: Config, named: tuple[str, int], place: str) -> None:
    bring(tio, config, place)
    expected = dict(zip(PLACES, MATRIX[named].split(), strict=True))[place]
    request = message(named[1], body(tio, named[1]))
    if expected in NAMES:
        tio.raw(request)
        assert tio.state == NAMES[expected]
    else:
        assert refused(tio, request) == int(expected)
        assert tio.state == STATES[place]


@pytest.mark.parametrize("kind", [VERSION, CAPABILITIES, LOCK, REPORT, STATE, START, STOP, 0x88])
def test_nothing_is_answered_outside_of_a_session(tio: TrustedSession, config: Config, kind: int) -> None:
    bring(tio, config, "locked")
    request = vendor_defined(b"\1" + message(kind, body(tio, kind)))
    for _ in range(2):
        assert tio.outside(request)[:3] == bytes([0x12, 0x7F, 0x0B])
    assert tio.state == LOCKED


class Row(NamedTuple):
    """A message that is refused."""

    name: str
    place: str
    make: Callable[[TrustedSession], bytes]
    code: int


def spoilt(nonce: bytes, place: int) -> bytes:
    return nonce[:place] + bytes([nonce[place] ^ 1]) + nonce[place + 1 :]


def row(name: str, place: str, kind: int, data: bytes, code: int = 1) -> Row:
    return Row(name, place, lambda tio: message(kind, data), code)


SOUND: Final = {
    VERSION: "locked", CAPABILITIES: "locked", LOCK: "ready", REPORT: "locked", STATE: "locked", START: "locked",
    STOP: "run",
}  # fmt: skip
ROWS: Final = [
    *(
        each
        for kind, place in SOUND.items()
        for each in (
            Row(f"{kind:#x}: more", place, lambda tio, kind=kind: message(kind, body(tio, kind) + b"\0"), 1),
            Row(
                f"{kind:#x}: version",
                place,
                lambda tio, kind=kind: message(kind, body(tio, kind), version=0x11),
                0x41,
            ),
            Row(
                f"{kind:#x}: interface",
                place,
                lambda tio, kind=kind: message(kind, body(tio, kind), FUNCTION + 1),
                0x101,
            ),
            Row(
                f"{kind:#x}: segment",
                place,
                lambda tio, kind=kind: message(kind, body(tio, kind), FUNCTION | 1 << 24),
                0x101,
            ),
        )
    ),
    *(
        Row(f"{kind:#x}: less", SOUND[kind], lambda tio, kind=kind: message(kind, body(tio, kind)[:-1]), 1)
        for kind in (CAPABILITIES, LOCK, REPORT, START)
    ),
    row("LOCK: BIND_P2P", "ready", LOCK, lock_body(flags=8)),
    row("LOCK: ALL_REQUEST_REDIRECT", "ready", LOCK, lock_body(flags=0x10)),
    row("LOCK: reserved flag", "ready", LOCK, lock_body(flags=0x8000)),
    row("LOCK: stream", "ready", LOCK, lock_body(stream=STREAM + 1)),
    row("REPORT: offset of the end", "locked", REPORT, struct.pack("<HH", 68, 1)),
    row("REPORT: offset behind it", "run", REPORT, struct.pack("<HH", 0xFFFF, 0xFFFF)),
    row("REPORT: no length", "locked", REPORT, struct.pack("<HH", 0, 0)),
    Row("START: first byte of the nonce", "locked", lambda tio: message(START, spoilt(tio.nonce, 0)), 0x102),
    Row("START: last byte of the nonce", "locked", lambda tio: message(START, spoilt(tio.nonce, 31)), 0x102),
    row("START: zeros", "locked", START, bytes(32), 0x102),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_wrong_field_is_refused_and_changes_nothing(tio: TrustedSession, config: Config, row: Row) -> None:
    bring(tio, config, row.place)
    assert tio.state == STATES[row.place]
    before = config.interface.status()
    for _ in range(2):
        assert refused(tio, row.make(tio)) == row.code
    assert (config.interface.status(), tio.stops) == (before, 0)
    if row.place == "locked":
        tio.start()


@pytest.mark.parametrize("size", range(16))
def test_less_than_a_header_is_an_error_of_spdm(tio: TrustedSession, size: int) -> None:
    with pytest.raises(ErrorAnswerError, match="0x1 0x0"):
        tio.ask(b"\1" + message(VERSION)[:size])


def test_versions_and_capabilities(tio: TrustedSession) -> None:
    assert tio.tdisp(VERSION) == bytes([1, 0x10])
    answer = tio.tdisp(CAPABILITIES, b"\xff" * 4)
    assert answer == bytes(4) + bytes([0xFE]) + bytes(15) + bytes([7, 0, 0, 0, 0, 64, 1, 1])


@pytest.mark.parametrize("which", ["link", "selective"])
def test_either_kind_of_stream_will_do(tio: TrustedSession, config: Config, which: str) -> None:
    config.controls(**{which: control()})
    tio.set_keys()
    tio.lock()
    assert tio.state == LOCKED


@pytest.mark.parametrize("word", [control(enabled=0), control(traffic_class=1), control(STREAM + 1)])
def test_a_stream_that_will_not_do(tio: TrustedSession, config: Config, word: int) -> None:
    tio.set_keys()
    config.controls(link=word, selective=word)
    assert refused(tio, message(LOCK, lock_body())) == 1
    assert tio.state == UNLOCKED


def test_a_nonce_is_random_and_good_for_one_start(tio: TrustedSession, config: Config) -> None:
    bring(tio, config, "ready")
    nonces = set()
    for _ in range(3):
        nonce = tio.lock()
        assert refused(tio, message(START, next(iter(nonces), bytes(32)))) == 0x102
        nonces.add(nonce)
        tio.start()
        assert refused(tio, message(START, nonce)) == 4
        tio.stop()
        assert refused(tio, message(START, nonce)) == 4
    assert len(nonces) == 3


def test_stop_ends_what_the_function_does_and_is_always_possible(tio: TrustedSession, config: Config) -> None:
    bring(tio, config, "run")
    for number in range(1, 4):
        tio.stop()
        assert (tio.stops, tio.state) == (number, UNLOCKED)
    tio.lock()
    assert tio.state == LOCKED, "the stream is still secure"


def test_report(tio: TrustedSession, config: Config) -> None:
    config.registers.bars = [0xFEDC1004, 0x12, 0x2004, 0x34, 0x3004, 0]
    config.registers.msix_control = 0x801F
    bring(tio, config, "ready")
    tio.lock(flags=1)
    report = tio.report()
    assert struct.unpack("<HHHHII", report[:16]) == (3, 0, 0x801F, 0, 0, 3)
    assert [struct.unpack_from("<QIHH", report, 16 + 16 * number) for number in range(3)] == [
        (0x12FEDC1, 1, 0, 0),
        (0x3400002, 1, 0, 2),
        (0x3, 1, 3, 4),
    ]
    assert report[64:] == bytes(4)
    tio.start()
    config.registers.msix_control = 0
    config.follow()
    assert tio.report() == report, "as it was locked"
    tio.stop()
    tio.lock(flags=6, offset=0x5000)
    report = tio.report()
    assert struct.unpack_from("<HHH", report) == (2, 0, 0)
    assert struct.unpack_from("<Q", report, 48)[0] == 8
    tio.stop()
    tio.lock(offset=(1 << 64) - 0x3000)
    assert struct.unpack_from("<Q", tio.report(), 48)[0] == 0


@pytest.mark.parametrize(
    ("offset", "length", "portion", "remainder"),
    [(0, 0x400, 68, 0), (0, 0xFFFF, 68, 0), (0, 68, 68, 0), (0, 67, 67, 1), (0, 1, 1, 67), (16, 16, 16, 36),
     (67, 1, 1, 0), (67, 0xFFFF, 1, 0), (1, 0xFFFF, 67, 0)],
)  # fmt: skip
def test_portions_of_a_report(
    tio: TrustedSession, config: Config, offset: int, length: int, portion: int, remainder: int
) -> None:
    bring(tio, config, "locked")
    answer = tio.tdisp(REPORT, struct.pack("<HH", offset, length))
    assert struct.unpack_from("<HH", answer) == (portion, remainder)
    assert answer[4:] == tio.report()[offset : offset + portion]


@pytest.mark.parametrize("flags", range(8))
def test_each_choice_of_the_flags_that_there_are(tio: TrustedSession, config: Config, flags: int) -> None:
    """With the offset that DMTF's emulator and Intel's validator give, and all fields set that mean nothing."""
    bring(tio, config, "ready")
    body = struct.pack("<HBBQQ", flags, STREAM, 0xFF, 0xD0000000, (1 << 64) - 1)
    answer = tio.ask(b"\1" + struct.pack("<BBHIQ", 0x10, LOCK, 0xFFFF, FUNCTION, (1 << 64) - 1) + body)
    assert answer[1:17] == message(LOCK & 0x7F)
    report = tio.report()
    assert struct.unpack_from("<H", report)[0] == 2 | flags & 1
    assert [struct.unpack_from("<Q", report, 16 + 16 * number)[0] for number in range(3)] == [0xD0000] * 3
    tio.start(answer[17:])


def test_report_of_the_firmware_loses_bits_of_addresses(tio: TrustedSession, config: Config) -> None:
    config.registers.bars = [0x1004, 0x3F, 0, 0, 0, 0]
    config.follow()
    pages = [
        struct.unpack_from("<Q", interface_report(config.interface.registers, 0, no_update=False, **choice), 16)[0]
        for choice in ({}, {"whole_addresses": False})
    ]
    assert pages == [0x3F00001, 0x3000001]


@pytest.mark.parametrize("place", ["locked", "run"])
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("MSE", True), ("BME", True), *((f"BAR{index}", True) for index in range(6)), ("stream off", True),
        ("stream's id", True), ("stream's class", True), ("SERR", False), ("MSI-X", False), ("other stream", False),
        ("RID association", False), ("nothing", False),
    ],
)  # fmt: skip
def test_changes_of_configuration(tio: TrustedSession, config: Config, place: str, name: str, error: bool) -> None:
    bring(tio, config, place)
    registers = config.registers
    match name:
        case "MSE":
            registers.command ^= 2
        case "BME":
            registers.command ^= 4
        case "SERR":
            registers.command ^= 0x100
        case "MSI-X":
            registers.msix_control ^= 0x8000
        case "stream off":
            registers.ide[5] = control(enabled=0)
        case "stream's id":
            registers.ide[5] = control(STREAM + 1)
        case "stream's class":
            registers.ide[5] = control(traffic_class=7)
        case "other stream":
            registers.ide[2] = control()
        case "RID association":
            registers.ide[7] = 0xFFFF00
        case _ if name.startswith("BAR"):
            registers.bars[int(name[-1])] ^= 0x80000000
    assert config.follow() == error
    assert tio.state == (ERROR if error else STATES[place])
    if error:
        assert not config.follow()
        assert refused(tio, message(LOCK, lock_body())) == (1 if name.startswith("stream") else 4)
        tio.stop()
        assert tio.state == UNLOCKED


@pytest.mark.parametrize(
    ("place", "after_reset"), [("ready", UNLOCKED), ("locked", ERROR), ("run", ERROR), ("error", ERROR)]
)
def test_resets(tio: TrustedSession, config: Config, place: str, after_reset: int) -> None:
    bring(tio, config, place)
    config.reset()
    assert tio.state == after_reset
    config.controls(selective=control())
    assert refused(tio, message(LOCK, lock_body())) == 1, "no key is left"
    config.reset(lost=True)
    assert tio.state == UNLOCKED


def test_changes_of_what_nobody_relies_on(tio: TrustedSession, config: Config) -> None:
    bring(tio, config, "ready")
    for _ in range(2):
        config.registers.command ^= 6
        config.registers.bars[0] ^= 0x1000
        assert not config.follow()
    tio.lock()
    tio.stop()
    config.registers.bars[0] ^= 0x1000
    assert not config.follow()
    assert tio.state == UNLOCKED


def test_an_error_stays_when_its_session_ends(tio: TrustedSession, config: Config) -> None:
    bring(tio, config, "error")
    tio.end("END_SESSION")
    assert (config.interface.status()["interface"], tio.stops) == ("ERROR", 0)


def test_the_first_interface_of_a_session_is_the_function(tio: TrustedSession) -> None:
    """Where the device is not told."""
    tio.raw(message(STATE, function=7))
    assert refused(tio, message(STATE)) == 0x101
    tio.end("END_SESSION")
    tio.begin()
    tio.raw(message(STATE))
    assert refused(tio, message(STATE, function=7)) == 0x101


def test_what_is_refused_names_no_function(tio: TrustedSession) -> None:
    assert refused(tio, message(STATE, function=7, version=0x20)) == 0x41
    assert refused(tio, message(0x88, function=7)) == 7
    tio.raw(message(STATE))


def test_a_function_that_is_told() -> None:
    interface_id = InterfaceId(FUNCTION)
    assert not interface_id.admits(FUNCTION + 1)
    assert interface_id.admits(FUNCTION)
    assert interface_id.admits(FUNCTION | 0x1020000)
    interface_id.forget()
    assert interface_id.known is not None
    assert interface_id.known.requester_id == FUNCTION


def test_k_set_stop_of_any_key_stops_it(tio: TrustedSession, config: Config) -> None:
    bring(tio, config, "run")
    tio.ide(key_set(5, stream=99, slot=1))
    assert (tio.state, tio.stops) == (UNLOCKED, 1)
