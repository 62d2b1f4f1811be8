# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""IDE_KM: a table of answers, every object with each field wrong, and what becomes of streams (spec 06 §2.3)."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import pytest

from ihsm_device.trust.withheld import WITHHELD
from support.spdm_requester import ErrorAnswerError
from support.trusted_io import (
    FUNCTION,
    KEY,
    SLOTS,
    STREAM,
    Config,
    control,
    key_prog,
    key_set,
    vendor_defined,
)
from support.trusted_session import TrustedSession

GO, STOP, ACK = 4, 5, 6
KP_ACK: Final = 3
OTHER: Final = STREAM + 1
SECOND_SET: Final = 1


class Row(NamedTuple):
    """An object, and the status of KP_ACK or the error of SPDM that it gets."""

    name: str
    request: bytes
    status: int | None = None
    error: int | None = None


INVALID: Final = 0x01
ROWS: Final = [
    Row("KEY_PROG: a byte less", key_prog()[:-1], status=1),
    Row("KEY_PROG: a byte more", key_prog() + b"\0", status=1),
    Row("KEY_PROG: a key of 128 bits", key_prog(key=KEY[:16]), status=1),
    Row("KEY_PROG: no key", key_prog()[:7], status=1),
    *(Row(f"KEY_PROG: {cut} bytes less", key_prog()[:-cut], status=1) for cut in range(4, 28, 4)),
    Row("KEY_PROG: less than a header", key_prog()[:6], error=INVALID),
    Row("KEY_PROG: port", key_prog(port=1), status=2),
    Row("KEY_PROG: port 255", key_prog(port=255), status=2),
    Row("KEY_PROG: sub-stream", key_prog(slot=0x30), status=3),
    Row("KEY_PROG: sub-stream 15", key_prog(slot=0xF0), status=3),
    Row("KEY_PROG: reserved bits", key_prog(slot=0x04), status=3),
    Row("KEY_PROG: first word of the IV", key_prog(iv=bytes.fromhex("0100000001000000")), status=3),
    Row("KEY_PROG: second word of the IV", key_prog(iv=bytes(8)), status=3),
    Row("KEY_PROG: big-endian IV", key_prog(iv=bytes.fromhex("0000000000000001")), status=3),
    *(
        row
        for kind, name in ((GO, "K_SET_GO"), (STOP, "K_SET_STOP"))
        for row in (
            Row(f"{name}: a byte less", key_set(kind)[:-1], error=INVALID),
            Row(f"{name}: a byte more", key_set(kind) + b"\0", error=INVALID),
            Row(f"{name}: port", key_set(kind, port=1), error=INVALID),
        )
    ),
    Row("K_SET_GO: stream without keys", key_set(GO, stream=OTHER), error=INVALID),
    Row("K_SET_GO: set without keys", key_set(GO, slot=SECOND_SET), error=INVALID),
    Row("K_SET_GO: sub-stream", key_set(GO, slot=0x30), error=INVALID),
    Row("QUERY: port", bytes([0, 0, 1]), error=INVALID),
    Row("QUERY: a byte less", bytes([0, 0]), error=INVALID),
    Row("QUERY: a byte more", bytes(4), error=INVALID),
    Row("nothing", b"", error=INVALID),
    *(
        Row(f"object {kind:#x}", bytes([kind]) + key_set(kind)[1:], error=INVALID)
        for kind in (1, KP_ACK, ACK, 7, 0x80, 0xFF)
    ),
]


def refused(tio: TrustedSession, request: bytes) -> int:
    with pytest.raises(ErrorAnswerError) as error:
        tio.ide(request)
    assert (error.value.version, error.value.data) == (0x12, 0)
    return error.value.code


@pytest.mark.parametrize("running", [False, True], ids=["unlocked", "running"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_wrong_field_is_refused_and_changes_nothing(
    tio: TrustedSession, config: Config, row: Row, running: bool
) -> None:
    config.controls(selective=control())
    tio.set_keys()
    if running:
        tio.lock()
        tio.start()
    before = config.interface.status(), tio.ide(bytes(3))
    for _ in range(2):
        if row.error is not None:
            assert refused(tio, row.request) == row.error
        else:
            _, _, _, stream, _, slot, port = row.request[:7]
            assert tio.ide(row.request) == bytes([KP_ACK, 0, 0, stream, row.status, slot, port])
    assert (config.interface.status(), tio.ide(bytes(3))) == before
    assert config.interface.status()["selective_stream"] == "SECURE"


@pytest.mark.parametrize(
    "request_", [bytes(3), key_prog(), key_set(GO), key_set(STOP), b"", bytes([9])], ids=lambda data: data.hex()[:8]
)
def test_nothing_is_answered_outside_of_a_session(tio: TrustedSession, config: Config, request_: bytes) -> None:
    config.controls(selective=control())
    tio.set_keys()
    before = config.interface.status()
    for _ in range(2):
        assert tio.outside(vendor_defined(b"\0" + request_))[:3] == bytes([0x12, 0x7F, 0x0B])
    assert config.interface.status() == before


def test_registers_of_the_port(tio: TrustedSession, config: Config) -> None:
    """In the order of spec 06 §2.5."""
    for index in range(9):
        config.registers.ide[index] = 0x11111111 * (index + 1)
    config.follow()
    answer = tio.ide(bytes(3))
    assert answer[:7] == bytes([1, 0, 0, 0, 0, 0, 0]), "nobody has told the function's number"
    assert struct.unpack("<9I", answer[7:]) == tuple(
        0x11111111 * (index + 1) & (~0xF if index in (3, 6) else ~0) for index in range(9)
    )
    tio.tdisp(0x81)
    assert tio.ide(bytes(3))[:7] == bytes([1, 0, 0, FUNCTION & 0xFF, FUNCTION >> 8, 0, 0])


@pytest.mark.parametrize("key_set_number", [0, 1])
@pytest.mark.parametrize("stream", ["link", "selective"])
def test_a_stream_is_secure_with_every_key_in_use(
    tio: TrustedSession, config: Config, stream: str, key_set_number: int
) -> None:
    def state() -> str:
        assert config.interface.status()["selective_stream" if stream == "link" else "link_stream"] == "INSECURE"
        return config.interface.status()[f"{stream}_stream"]

    config.controls(**{stream: control()})
    slots = [slot | key_set_number for slot in SLOTS]
    for slot in slots:
        tio.ide(key_prog(slot=slot))
    assert state() == "INSECURE"
    for slot in slots:
        assert state() == "INSECURE"
        tio.ide(key_set(GO, slot=slot))
    assert state() == "SECURE"
    for other in (control(enabled=0), control(stream=OTHER)):
        config.controls(**{stream: other})
        assert state() == "INSECURE"
        config.controls(**{stream: control()})
        assert state() == "SECURE"
    tio.ide(key_prog(slot=slots[3]))
    assert state() == "INSECURE", "a new key is not in use"


def test_keys_of_both_sets_follow_each_other(tio: TrustedSession, config: Config) -> None:
    config.controls(selective=control())
    tio.set_keys()
    tio.set_keys(key_set_number=1)
    tio.ide(key_set(STOP, slot=0))
    tio.ide(key_set(STOP, slot=2))
    assert config.interface.status()["selective_stream"] == "SECURE"
    tio.ide(key_set(STOP, slot=1))
    assert config.interface.status()["selective_stream"] == "INSECURE"


def test_a_stop_ends_the_keys_of_all_streams(tio: TrustedSession, config: Config) -> None:
    """And takes no notice of stream and sub-stream (spec 06 §2.3)."""
    config.controls(link=control(), selective=control(OTHER))
    tio.set_keys()
    tio.set_keys(OTHER)
    assert set(config.interface.status().values()) == {"CONFIG_UNLOCKED", "SECURE"}
    assert tio.ide(key_set(STOP, stream=77, slot=0xF2)) == key_set(ACK, stream=77, slot=0xF2)
    assert set(config.interface.status().values()) == {"CONFIG_UNLOCKED", "INSECURE"}
    assert refused(tio, key_set(GO, slot=2)) == INVALID, "transmitting"
    assert tio.ide(key_set(GO, slot=0)) == key_set(ACK, slot=0), "receiving"


def test_there_is_room_for_two_streams(tio: TrustedSession) -> None:
    tio.ide(key_prog(1))
    tio.ide(key_prog(2))
    assert tio.ide(key_prog(3))[4] == 3
    assert tio.ide(key_prog(2, slot=0x10))[4] == 0
    tio.ide(key_set(STOP))
    assert tio.ide(key_prog(3))[4] == 0


@pytest.mark.parametrize("enabled", [0, 1], ids=["prepared", "enabled"])
@pytest.mark.parametrize("which", ["link", "selective"])
def test_keys_are_for_a_stream_that_a_register_names(
    tio: TrustedSession, config: Config, which: str, enabled: int
) -> None:
    """Once one names any; the other register, as at power-on, names 0."""
    config.controls(**{which: control(enabled=enabled)})
    for stream in (*range(STREAM + 1, STREAM + 7), 255):
        for slot in (*SLOTS, SLOTS[-1] | SECOND_SET):
            assert tio.ide(key_prog(stream, slot)) == bytes([KP_ACK, 0, 0, stream, 3, slot, 0])
    assert tio.ide(key_prog(0))[4] == 0
    tio.set_keys()
    assert config.interface.status()[f"{which}_stream"] == ("SECURE" if enabled else "INSECURE")


def test_streams_that_registers_name_one_after_the_other_have_room(tio: TrustedSession, config: Config) -> None:
    config.controls(link=control(1))
    tio.set_keys(1)
    for stream in range(2, 6):
        config.controls(link=control(1), selective=control(stream))
        tio.set_keys(stream)
        assert set(config.interface.status().values()) == {"CONFIG_UNLOCKED", "SECURE"}
    config.controls(link=control(1), selective=control(3))
    assert refused(tio, key_set(GO, stream=3)) == INVALID, "its keys are gone"


@pytest.mark.parametrize("how", ["K_SET_STOP", "END_SESSION", "forgotten", "another negotiation"])
@pytest.mark.parametrize("running", [False, True])
def test_what_ends_keys_stops_the_interface(tio: TrustedSession, config: Config, how: str, running: bool) -> None:
    config.controls(selective=control())
    tio.set_keys()
    tio.lock()
    if running:
        tio.start()
    assert tio.stops == 0
    if how == "K_SET_STOP":
        tio.ide(key_set(STOP, slot=SECOND_SET))
        assert config.interface.status()["selective_stream"] == "SECURE"
    else:
        tio.end(how)
        assert config.interface.status()["selective_stream"] == "INSECURE"
    assert tio.stops == 1
    assert config.interface.status()["interface"] == "CONFIG_UNLOCKED"


def test_another_key_in_the_place_of_one_in_use_breaks_the_interface(tio: TrustedSession, config: Config) -> None:
    config.controls(selective=control())
    tio.set_keys()
    tio.lock()
    tio.ide(key_prog())
    assert (config.interface.status()["interface"], tio.stops) == ("ERROR", 1)


def test_the_key_store_withholds_a_key_and_nothing_else() -> None:
    message = vendor_defined(b"\0" + key_prog())
    text = len(message).to_bytes(2, "little") + message
    assert text[WITHHELD.start : WITHHELD.end] == KEY
    assert bytes(a & b for a, b in zip(text, WITHHELD.mask, strict=False)) == WITHHELD.value
