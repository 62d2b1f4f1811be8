# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A table of answers: every request at every point of a conversation, and with every field wrong (spec 06 §2.5)."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import zip_longest
from typing import Final, NamedTuple

import pytest

from ihsm_abi.spdm import algorithms, codes, messages, opaque
from ihsm_abi.spdm.algorithms import AlgorithmTable
from ihsm_abi.spdm.codes import RequestCode
from ihsm_device.trust.messages import RULES
from support.spdm_requester import CAPABILITIES, TABLES, Requester
from support.spdm_requests import KEY_EXCHANGE_HEAD, LIST, POINT, REQUESTS, patched

PLACES: Final = ("start", "version", "capabilities", "negotiated", "half", "beside", "handshake", "session")
"""How far it has come; `half`, `beside`: outside of a session that there is, in its handshake and after it."""
INSIDE: Final = ("handshake", "session")
MATRIX: Final = {
    # An error's number, or + for the answer.
    #                          start version capabilities negotiated half beside handshake session
    "GET_VERSION":             " +     +       +            +          +    +      04        04",
    "GET_CAPABILITIES":        " 04    +       04           04         04   04     04        04",
    "NEGOTIATE_ALGORITHMS":    " 04    04      +            04         04   04     04        04",
    "GET_DIGESTS":             " 04    04      04           +          +    +      04        +",
    "GET_CERTIFICATE":         " 04    04      04           +          +    +      04        +",
    "CHALLENGE":               " 04    04      04           +          +    +      04        04",
    "GET_MEASUREMENTS":        " 04    04      04           +          +    +      04        +",
    "GET_MEASUREMENTS signed": " 04    04      04           +          +    +      04        +",
    "KEY_EXCHANGE":            " 04    04      04           +          0a   0a     04        04",
    "FINISH":                  " 04    04      04           0b         0b   0b     06        04",
    "END_SESSION":             " 04    04      04           0b         0b   0b     04        +",
    "VENDOR_DEFINED":          " 04    04      04           0b         0b   0b     04        +",
}  # fmt: skip
UNSUPPORTED: Final = sorted(set(REQUESTS) - set(MATRIX))


def test_the_table_has_every_request_that_is_served() -> None:
    assert {REQUESTS[name][1] for name in MATRIX} == set(RULES) == codes.SERVED
    assert {REQUESTS[name][1] for name in REQUESTS} >= set(RequestCode)


def bring(requester: Requester, place: str) -> None:
    """Come that far."""
    steps: list[Callable[[], object]] = [requester.version, requester.capabilities, requester.algorithms]
    for step in steps[: PLACES.index(place)]:
        step()
    if place in ("half", "beside", *INSIDE):
        requester.read_chain()
        requester.key_exchange()
    if place in ("beside", "session"):
        requester.finish()


def ask(requester: Requester, place: str, request: bytes) -> bytes:
    return requester.secured(request) if place in INSIDE else requester.send(request)


def error(request: bytes, place: str, code: int, data: int = 0) -> bytes:
    """ERROR, in the version that was chosen with GET_CAPABILITIES, and in 1.0 to GET_VERSION."""
    chosen = place not in ("start", "version") or (place == "version" and request[:2] == b"\x12\xe1")
    old = request[1:2] == b"\x84" and place not in INSIDE
    return bytes([0x12 if chosen and not old else 0x10, 0x7F, code, data])


def answers(request: bytes, place: str, answer: bytes, expected: str, data: int = 0) -> bool:
    """Whether it is the right answer, or the error with that number."""
    if expected == "+":
        return answer[:2] == bytes([request[0], request[1] & 0x7F])
    return answer == error(request, place, int(expected, 16), data)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", MATRIX)
def test_requests_at_every_point(make_requester: Callable[[], Requester], name: str, place: str) -> None:
    requester = make_requester()
    bring(requester, place)
    expected = dict(zip(PLACES, MATRIX[name].split(), strict=True))[place]
    answer = ask(requester, place, REQUESTS[name])
    assert answers(REQUESTS[name], place, answer, expected), answer.hex()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_requests_that_are_not_supported(make_requester: Callable[[], Requester], name: str, place: str) -> None:
    requester = make_requester()
    bring(requester, place)
    request = REQUESTS[name]
    assert answers(request, place, ask(requester, place, request), "07", request[1])


@pytest.mark.parametrize("version", [0x00, 0x10, 0x11, 0x13, 0x22])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", MATRIX)
def test_another_version(make_requester: Callable[[], Requester], name: str, place: str, version: int) -> None:
    """Than 1.0 of GET_VERSION, 1.2 of the others."""
    requester = make_requester()
    version = 0x12 if version == REQUESTS[name][0] else version
    request = bytes([version]) + REQUESTS[name][1:]
    bring(requester, place)
    assert answers(request, place, ask(requester, place, request), "41")


def test_a_version_stays_chosen_though_the_request_was_refused(make_requester: Callable[[], Requester]) -> None:
    requester = make_requester()
    bring(requester, "version")
    for request in (b"\x13" + REQUESTS["GET_CAPABILITIES"][1:], REQUESTS["GET_DIGESTS"]):
        assert requester.send(request)[0] == 0x10
    requester.send(capabilities(ct_exponent=32))
    assert requester.send(REQUESTS["GET_DIGESTS"]) == bytes.fromhex("127f0400")
    requester.version()
    assert requester.send(REQUESTS["GET_DIGESTS"]) == bytes.fromhex("107f0400")


class Wrong(NamedTuple):
    """A request that is refused as invalid."""

    name: str
    place: str
    request: bytes
    expected: str = "01"


def capabilities(**changes: int) -> bytes:
    fields = {"ct_exponent": 20, "flags": CAPABILITIES, "data_transfer_size": 4096, "max_message_size": 4096}
    return messages.GetCapabilities(**{**fields, **changes}).encode()


def flags(without: int = 0, **more: codes.Capability) -> bytes:
    value = (CAPABILITIES | codes.Capability.CERT) & ~without
    for flag in more.values():
        value |= flag
    return capabilities(flags=value)


def negotiation(**changes: object) -> bytes:
    return algorithms.NegotiateAlgorithms.of(**{"tables": TABLES, **changes}).encode()  # type: ignore[arg-type]


def key_exchange(point: bytes = POINT, data: bytes = LIST) -> bytes:
    return KEY_EXCHANGE_HEAD + point + len(data).to_bytes(2, "little") + data


C = codes.Capability
NO_KEYS = C.ENCRYPT | C.MAC
WRONG: Final = [
    *(
        Wrong(f"{name}: {what}", place, request)
        for name, place in (
            *(("GET_VERSION", place) for place in ("start", "negotiated")),
            ("GET_CAPABILITIES", "version"),
            ("NEGOTIATE_ALGORITHMS", "capabilities"),
            *((name, place) for name in ("GET_DIGESTS", "GET_CERTIFICATE") for place in ("negotiated", "session")),
            ("CHALLENGE", "negotiated"),
            *(
                (name, place)
                for name in ("GET_MEASUREMENTS", "GET_MEASUREMENTS signed")
                for place in ("negotiated", "session")
            ),
            ("KEY_EXCHANGE", "negotiated"),
            ("FINISH", "handshake"),
            ("END_SESSION", "session"),
            ("VENDOR_DEFINED", "negotiated"),
            ("VENDOR_DEFINED", "session"),
        )
        for what, request in (
            ("cut by a byte", REQUESTS[name][:-1]),
            ("four bytes more", REQUESTS[name] + bytes(4)),
        )
    ),
    Wrong("nothing", "negotiated", b""),
    Wrong("nothing", "session", b""),
    Wrong("longer than a message may be", "negotiated", bytes.fromhex("12810000") + bytes(4088), "0e"),
    Wrong("GET_CAPABILITIES: exponent", "version", capabilities(ct_exponent=32)),
    Wrong(
        "GET_CAPABILITIES: transfer size below the least",
        "version",
        capabilities(data_transfer_size=41, max_message_size=41),
    ),
    Wrong("GET_CAPABILITIES: message size below the transfer size", "version", capabilities(max_message_size=4095)),
    Wrong("GET_CAPABILITIES: message size above the transfer size", "version", capabilities(max_message_size=4097)),
    Wrong("GET_CAPABILITIES: KEY_EX alone", "version", flags(C.ENCRYPT | C.MAC)),
    Wrong("GET_CAPABILITIES: ENCRYPT alone", "version", flags(C.KEY_EX | C.MAC)),
    Wrong("GET_CAPABILITIES: MAC alone", "version", flags(C.KEY_EX | C.ENCRYPT)),
    Wrong("GET_CAPABILITIES: heartbeat without keys", "version", flags(C.KEY_EX | NO_KEYS, hbeat=C.HBEAT)),
    Wrong("GET_CAPABILITIES: key update without keys", "version", flags(C.KEY_EX | NO_KEYS, update=C.KEY_UPD)),
    Wrong(
        "GET_CAPABILITIES: clear handshake without keys",
        "version",
        flags(C.KEY_EX | NO_KEYS, clear=C.HANDSHAKE_IN_THE_CLEAR),
    ),
    Wrong("GET_CAPABILITIES: reserved PSK", "version", flags(psk=C.PSK_WITH_CONTEXT)),
    Wrong("GET_CAPABILITIES: two kinds of public key", "version", flags(key=C.PUB_KEY_ID)),
    *(
        Wrong(f"NEGOTIATE_ALGORITHMS: {what}", "capabilities", patched("NEGOTIATE_ALGORITHMS", at, value))
        for what, at, value in (
            ("length", 4, "2d00"),
            ("a shorter length", 4, "2b00"),
            ("21 extended signatures", 28, "15"),
            ("21 extended hashes", 29, "15"),
            ("a table of one byte", 33, "10"),
            ("a table of three bytes", 33, "30"),
            ("a table with 15 extended ones", 33, "2f"),
            ("a table of no kind", 32, "01"),
            ("a table of another kind", 40, "06"),
            ("a table twice", 36, "02"),
        )
    ),
    Wrong(
        "NEGOTIATE_ALGORITHMS: longer than may be",
        "capabilities",
        patched("NEGOTIATE_ALGORITHMS", 4, "ad00") + bytes(129),
    ),
    Wrong("NEGOTIATE_ALGORITHMS: number of tables", "capabilities", patched("NEGOTIATE_ALGORITHMS", 2, "02")),
    Wrong("NEGOTIATE_ALGORITHMS: no common signature", "capabilities", negotiation(base_asym=0x7F)),
    Wrong("NEGOTIATE_ALGORITHMS: no common hash", "capabilities", negotiation(base_hash=0x78)),
    Wrong(
        "NEGOTIATE_ALGORITHMS: no common group",
        "capabilities",
        negotiation(tables=(AlgorithmTable.of(2, 8), *TABLES[1:])),
    ),
    Wrong(
        "NEGOTIATE_ALGORITHMS: no common cipher",
        "capabilities",
        negotiation(tables=(TABLES[0], AlgorithmTable.of(3, 1), TABLES[2])),
    ),
    Wrong("NEGOTIATE_ALGORITHMS: no key schedule", "capabilities", negotiation(tables=TABLES[:2])),
    Wrong("NEGOTIATE_ALGORITHMS: no tables", "capabilities", negotiation(tables=())),
    Wrong("NEGOTIATE_ALGORITHMS: tables in another order", "capabilities", negotiation(tables=TABLES[::-1])),
    Wrong(
        "NEGOTIATE_ALGORITHMS: extended ones that are not there",
        "capabilities",
        patched("NEGOTIATE_ALGORITHMS", 28, "ff"),
    ),
    *(
        row
        for place in ("negotiated", "session")
        for row in (
            *(
                Wrong(f"{name}: slot {slot}", place, patched(name, at, slot))
                for name, at in (("GET_CERTIFICATE", 2), ("GET_MEASUREMENTS signed", 36))
                for slot in ("01", "07", "08", "0f")
            ),
            Wrong("GET_CERTIFICATE: offset", place, patched("GET_CERTIFICATE", 4, "ffff")),
            Wrong("GET_CERTIFICATE: length", place, patched("GET_CERTIFICATE", 6, "0000")),
            Wrong("GET_MEASUREMENTS: block after the last", place, patched("GET_MEASUREMENTS", 3, "25")),
            Wrong("GET_MEASUREMENTS: block 0xEF", place, patched("GET_MEASUREMENTS", 3, "ef")),
            Wrong("GET_MEASUREMENTS: block 0xFE", place, patched("GET_MEASUREMENTS", 3, "fe")),
            Wrong("GET_MEASUREMENTS: signature without nonce", place, patched("GET_MEASUREMENTS", 2, "01")),
            Wrong("VENDOR_DEFINED: registry", place, patched("VENDOR_DEFINED", 4, "0400")),
            Wrong("VENDOR_DEFINED: vendor", place, patched("VENDOR_DEFINED", 7, "0200")),
            Wrong("VENDOR_DEFINED: length of the vendor", place, patched("VENDOR_DEFINED", 6, "03")),
            Wrong("VENDOR_DEFINED: protocol", place, patched("VENDOR_DEFINED", 11, "06")),
            Wrong("VENDOR_DEFINED: length", place, patched("VENDOR_DEFINED", 9, "0500")),
            Wrong("VENDOR_DEFINED: no payload", place, bytes.fromhex("12fe0000 0300 02 0100 0000")),
        )
    ),
    *(
        Wrong(f"{name}: slot {slot}", "negotiated", patched(name, at, slot))
        for name, at in (("CHALLENGE", 2), ("KEY_EXCHANGE", 3))
        for slot in ("01", "07", "08", "0f", "10", "80", "ff")
    ),
    *(
        Wrong(f"{name}: summary {kind}", "negotiated", patched(name, at, kind))
        for name, at in (("CHALLENGE", 3), ("KEY_EXCHANGE", 2))
        for kind in ("02", "7f", "fe")
    ),
    Wrong(
        "KEY_EXCHANGE: point that is not on the curve", "negotiated", key_exchange(POINT[:-1] + bytes([POINT[-1] ^ 1]))
    ),
    Wrong("KEY_EXCHANGE: coordinates 0", "negotiated", key_exchange(bytes(96))),
    Wrong("KEY_EXCHANGE: coordinates beyond the field", "negotiated", key_exchange(b"\xff" * 96)),
    Wrong("KEY_EXCHANGE: no versions of secured messages", "negotiated", key_exchange(data=b"")),
    Wrong(
        "KEY_EXCHANGE: other versions of secured messages",
        "negotiated",
        key_exchange(data=opaque.supported_versions((0x1000, 0x1200))),
    ),
    Wrong("KEY_EXCHANGE: opaque data that are not there", "negotiated", KEY_EXCHANGE_HEAD + POINT + b"\xff\xff" + LIST),
    Wrong("KEY_EXCHANGE: a selection", "negotiated", key_exchange(data=opaque.selected_version())),
    *(
        Wrong(f"FINISH: a signature with slot {slot} that is not there", "handshake", patched("FINISH", 2, f"01{slot}"))
        for slot in ("01", "07", "0f", "ff")
    ),
    Wrong("FINISH: no proof", "handshake", REQUESTS["FINISH"][:4]),
    Wrong("FINISH: a signature nobody asked for", "handshake", bytes.fromhex("12e50100") + bytes(96 + 48)),
]


@pytest.mark.parametrize("row", WRONG, ids=lambda row: f"{row.place}: {row.name}")
def test_a_wrong_field_is_refused_and_changes_nothing(make_requester: Callable[[], Requester], row: Wrong) -> None:
    requester = make_requester()
    bring(requester, row.place)
    for _ in range(2):
        answer = ask(requester, row.place, row.request)
        assert answers(row.request, row.place, answer, row.expected), answer.hex()
    if row.place == "handshake":
        requester.finish()
    if row.place in ("negotiated", *INSIDE):
        assert ask(requester, row.place, REQUESTS["GET_DIGESTS"])[1] == codes.ResponseCode.DIGESTS
    else:
        next_one = dict(zip(PLACES, REQUESTS, strict=False))[row.place]
        assert requester.send(REQUESTS[next_one])[1] == REQUESTS[next_one][1] & 0x7F


RESERVED: Final = {
    # Each bit that means nothing, or an algorithm that the device has not, is 1 (DSP0274 1.2 §9, §10).
    "GET_VERSION": "0000ffff",
    "GET_CAPABILITIES": "0000ffff ff00ffff 3900fcff",
    "NEGOTIATE_ALGORITHMS": f"000000ff 0000 fe fc 7fffffff f8ffffff {12 * 'ff'} 0000ffff 0000efff 0000fdff 0000feff",
    "GET_DIGESTS": "0000ffff",
    "GET_CERTIFICATE": "0000f0ff",
    "GET_MEASUREMENTS": "0000fc00",
    "GET_MEASUREMENTS signed": f"0000fc00 {32 * '00'} f0",
    "KEY_EXCHANGE": "00000000 0000ffff",
    "FINISH": "0000feff",
    "END_SESSION": "0000ffff",
    "VENDOR_DEFINED": "0000ffff",
}


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_bits_are_not_looked_at_but_signed(make_requester: Callable[[], Requester], name: str) -> None:
    mask, vendor = bytes.fromhex(RESERVED[name]), REQUESTS["VENDOR_DEFINED"]
    altered = set()

    def alter(request: bytes) -> bytes:
        if request[1] != REQUESTS[name][1]:
            return request
        altered.add(name)
        return bytes(byte | bit for byte, bit in zip_longest(request, mask[: len(request)], fillvalue=0))

    requester = make_requester()
    requester.alter = alter
    requester.negotiate()
    requester.digests()
    requester.read_chain()
    requester.challenge()
    requester.measure(1)
    requester.blocks()
    requester.open_session()
    requester.digests()
    requester.read_chain()
    requester.measure(1)
    requester.blocks()
    assert answers(vendor, "session", requester.secured(alter(vendor)), "+")
    requester.end_session()
    assert altered


def test_padding_of_a_data_object_is_not_in_a_transcript(make_requester: Callable[[], Requester]) -> None:
    requester = make_requester()
    send = requester.send
    requester.send = lambda message: send(message + os.urandom(3))
    requester.negotiate()
    requester.digests()
    requester.read_chain()
    requester.challenge(1)
    requester.measure(1)
    requester.blocks()
    requester.open_session(1)
