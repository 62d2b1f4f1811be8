# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What is agreed on, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from ihsm_abi.spdm import algorithms, codes
from ihsm_abi.spdm.algorithms import AlgorithmTable
from ihsm_abi.spdm.codes import Capability as C
from ihsm_device.hsm import HsmDevice
from ihsm_device.hsm.keystore import KeyStoreMemoryError, Scope
from support.spdm_requester import CAPABILITIES, TABLES, ErrorAnswerError, Requester
from support.spdm_requests import REQUESTS, patched

MEASURE: Final = REQUESTS["GET_MEASUREMENTS"]
CHALLENGE_TCB: Final = patched("CHALLENGE", 3, "01")
KEY_EXCHANGE: Final = REQUESTS["KEY_EXCHANGE"]


@pytest.mark.parametrize(
    ("hashes", "chosen"), [(7, 2), (5, 4), (1, 1), (0x7F, 2), (0x7D, 4)], ids=["all", "512", "256", "more", "no 384"]
)
def test_the_preferred_hash_is_taken(make_requester: Callable[[], Requester], hashes: int, chosen: int) -> None:
    requester = make_requester()
    requester.version()
    requester.capabilities()
    assert requester.algorithms(base_hash=hashes).base_hash == chosen
    requester.read_chain()
    requester.challenge()


def test_what_is_chosen(make_requester: Callable[[], Requester]) -> None:
    requester = make_requester()
    assert requester.version().entries == (0x1200,)
    capable = requester.capabilities()
    assert (capable.ct_exponent, capable.data_transfer_size, capable.max_message_size) == (20, 4088, 4088)
    assert capable.flags == C.CERT | C.CHAL | C.MEAS_SIGNATURE | C.ENCRYPT | C.MAC | C.KEY_EX | C.ALIAS_CERT
    everything = tuple(AlgorithmTable.of(algorithms.TableType(type), 0xFFFF) for type in (2, 3, 4, 5))
    chosen = requester.algorithms(tables=everything, base_asym=0xFFF, opaque_formats=3, measurement_specification=0xFF)
    assert [(table.type, table.algorithms) for table in chosen.tables] == [(2, 16), (3, 2), (4, 0), (5, 1)]
    assert (chosen.base_asym, chosen.base_hash, chosen.measurement_hash) == (0x80, 2, 4)
    assert (chosen.measurement_specification, chosen.opaque_format) == (1, 2)


def test_extended_algorithms_are_passed_over(make_requester: Callable[[], Requester]) -> None:
    requester = make_requester()
    requester.version()
    requester.capabilities()
    more = tuple(
        AlgorithmTable(type=table.type, counts=0x23, algorithms=table.algorithms, extended=(b"abcd",) * 3)
        for table in TABLES
    )
    chosen = requester.algorithms(tables=more)
    assert (chosen.extended_asym_count, chosen.extended_hash_count, chosen.tables) == (0, 0, TABLES)
    requester.read_chain()
    requester.challenge()
    requester.open_session()


def test_a_requester_without_measurements(make_requester: Callable[[], Requester]) -> None:
    requester = make_requester()
    requester.version()
    requester.capabilities()
    chosen = requester.algorithms(measurement_specification=0)
    assert (chosen.measurement_specification, chosen.measurement_hash) == (0, 0)
    requester.read_chain()
    assert requester.send(MEASURE) == bytes.fromhex("127f0100")
    assert requester.send(CHALLENGE_TCB) == bytes.fromhex("127f0100")
    requester.read = b""
    requester.challenge()


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(C.CERT | C.CHAL | C.ENCAP | C.HBEAT | C.KEY_UPD, id="as DMTF's suite"),
        pytest.param(C.CERT | C.CHAL | C.MUT_AUTH | C.ENCAP, id="mutual authentication"),
        pytest.param(C.CERT | C.CHAL | C.MUT_AUTH, id="without encapsulated requests"),
        pytest.param(C.PUB_KEY_ID | C.MUT_AUTH, id="with a known key"),
        pytest.param(C.PSK | C.HANDSHAKE_IN_THE_CLEAR | C.CHUNK, id="what the device cannot"),
    ],
)
def test_a_requester_that_can_more(make_requester: Callable[[], Requester], more: codes.Capability) -> None:
    requester = make_requester()
    requester.version()
    requester.capabilities(CAPABILITIES | more)
    requester.algorithms()
    requester.read_chain()
    requester.challenge()
    requester.open_session()
    requester.blocks()


@pytest.mark.parametrize("missing", [C.KEY_EX | C.ENCRYPT | C.MAC, C.MAC, C.ENCRYPT])
def test_a_requester_without_sessions(make_requester: Callable[[], Requester], missing: codes.Capability) -> None:
    requester = make_requester()
    requester.version()
    requester.capabilities(CAPABILITIES & ~missing)
    requester.algorithms()
    assert requester.send(KEY_EXCHANGE) == bytes.fromhex("127f07e4")


def test_a_requester_that_only_authenticates_the_device(make_requester: Callable[[], Requester]) -> None:
    """As Linux does: no capability, and no tables of algorithms."""
    requester = make_requester()
    requester.version()
    requester.capabilities(0)
    assert requester.algorithms(tables=(), base_asym=0x1FF, base_hash=0x3F).tables == ()
    requester.read_chain()
    requester.challenge()
    requester.blocks()
    assert requester.send(KEY_EXCHANGE) == bytes.fromhex("127f07e4")


def test_a_requester_without_opaque_data(make_requester: Callable[[], Requester]) -> None:
    requester = make_requester()
    requester.version()
    requester.capabilities()
    requester.algorithms(opaque_formats=1)
    assert requester.send(KEY_EXCHANGE) == bytes.fromhex("127f0100")


TOO_LARGE: Final = {
    # A request, and how long its answer is.
    "NEGOTIATE_ALGORITHMS": (REQUESTS["NEGOTIATE_ALGORITHMS"], 48),
    "GET_DIGESTS": (REQUESTS["GET_DIGESTS"], 52),
    "CHALLENGE": (REQUESTS["CHALLENGE"], 182),
    "CHALLENGE with a summary": (CHALLENGE_TCB, 230),
    "GET_MEASUREMENTS of all": (MEASURE, 42 + 36 * 55),
    "a block, signed": (patched("GET_MEASUREMENTS signed", 3, "01"), 42 + 55 + 96),
    "KEY_EXCHANGE": (KEY_EXCHANGE, 150 + 96 + 48),
}


@pytest.mark.parametrize("chunks", [False, True], ids=["whole", "in chunks"])
@pytest.mark.parametrize(("request_", "length"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_answers_that_are_longer_than_a_requester_takes(
    make_requester: Callable[[], Requester], request_: bytes, length: int, chunks: bool
) -> None:
    """Get an error that says how long they are; who takes that much gets them."""
    for size in (length - 1, length):
        requester = make_requester()
        requester.version()
        requester.capabilities(CAPABILITIES | (C.CHUNK if chunks else 0), size, 4096 if chunks else size)
        if request_ != REQUESTS["NEGOTIATE_ALGORITHMS"]:
            requester.algorithms()
        answer = requester.send(request_)
        if size < length:
            assert answer == bytes.fromhex("127f0d00") + length.to_bytes(4, "little")
        else:
            assert (answer[1], len(answer)) == (request_[1] & 0x7F, length)


@pytest.mark.parametrize("size", [42, 47])
def test_a_requester_who_takes_no_algorithms_stays_where_it_was(
    make_requester: Callable[[], Requester], size: int
) -> None:
    requester = make_requester()
    requester.version()
    requester.capabilities(size=size)
    for _ in range(2):
        with pytest.raises(ErrorAnswerError, match="0xd"):
            requester.algorithms()
    assert requester.send(REQUESTS["GET_DIGESTS"]) == bytes.fromhex("127f0400")


def test_a_requester_who_takes_little_gets_little(make_requester: Callable[[], Requester]) -> None:
    requester = make_requester()
    requester.version()
    requester.capabilities(size=128)
    requester.algorithms()
    requester.read_chain(portion=0xFFFF)
    assert len(requester.chain) > 128
    requester.measure(1)


def test_portions_and_blocks_fill_a_message(requester: Requester) -> None:
    for inside in (False, True):
        if inside:
            requester.open_session()
        for block in range(1, 37):
            requester.blocks(block, raw=True)
        assert len(requester.measure(0xFF, raw=True, signed=True).encode()) <= 4064


@pytest.mark.parametrize("name", ["CHALLENGE", "GET_MEASUREMENTS", "KEY_EXCHANGE"])
@pytest.mark.parametrize("draws", [0, 1])
def test_a_key_store_without_memory_is_no_end(
    requester: Requester, hsm: HsmDevice, name: str, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After so many draws of random bytes; of the session that was begun nothing is left."""
    left = draws
    random = hsm.store.random

    def fail(length: int) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyStoreMemoryError
        return random(length)

    with monkeypatch.context() as patched_store:
        patched_store.setattr(hsm.store, "random", fail)
        failed = requester.send(REQUESTS[name]) == bytes.fromhex("127f0500")
    assert failed == (draws == 0 or name == "KEY_EXCHANGE")
    assert hsm.store.destroy_group(function=0, scope=Scope.TRUST) == 0
