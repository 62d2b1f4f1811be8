# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The requester asks a device, and notices each byte of its answers that somebody else has changed."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence

import pytest
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from ihsm.attest import Connection, EvidenceError, Request, Session, SpdmRefusedError, new_nonce
from ihsm.attest.chain import RESPONDER, check_chain
from ihsm.attest.connection import HASH
from ihsm.errors import MailboxError
from ihsm_abi.spdm.chain import encode_chain
from ihsm_abi.spdm.codes import ErrorCode, RequestCode, ResponseCode, SummaryType
from ihsm_abi.spdm.messages import Certificate, Digests
from support.certificates import certificate
from support.spdm_exchange import Attested, DirectExchange, attested_device
from support.spdm_vendor import Protocol

ALL = (Request(0xFF), Request(29, raw=True))


class Changing(DirectExchange):
    """A way to the device on which answers are changed."""

    def __init__(self, exchange: DirectExchange) -> None:
        super().__init__(exchange.objects)
        self.change: Callable[[bytearray], None] = lambda answer: None

    def exchange(self, vendor: int, type: int, payload: bytes, timeout_s: float = 1.0) -> bytes:
        answer = bytearray(super().exchange(vendor, type, payload, timeout_s))
        self.change(answer)
        return bytes(answer)

    def flip(self, code: int, place: int) -> None:
        """Change one bit of answers of that code."""

        def change(answer: bytearray) -> None:
            if answer[1] == code:
                answer[place] ^= 1

        self.change = change


@pytest.fixture(scope="module")
def device() -> Iterator[Attested]:
    with attested_device() as device:
        yield device


@pytest.fixture
def protocol() -> Protocol:
    return Protocol()


@pytest.fixture
def way(device: Attested, protocol: Protocol) -> Changing:
    return Changing(device.exchange({(3, 7): protocol}))


@pytest.fixture
def connection(way: Changing) -> Connection:
    connection = Connection(way)
    connection.negotiate()
    connection.read_chain()
    return connection


def test_everything_once(connection: Connection, protocol: Protocol) -> None:
    nonce = new_nonce()
    summary = connection.challenge(nonce)
    assert connection.challenge(nonce, SummaryType.NONE) == b""
    measured = connection.measurements(ALL, nonce)
    assert [block.index for block in measured.blocks] == [*range(1, 37), 29]
    assert measured.nonce == nonce
    for _ in range(2):
        with Session.open(connection) as session:
            assert session.summary == summary
            assert session.measurements(ALL, nonce) == measured
            assert session.vendor_defined(b"\x07abc") == b"\x07cba"
    assert protocol.ended == 2


def test_a_challenge_after_measurements_is_not_over_the_chain(connection: Connection) -> None:
    connection.measurements(ALL, new_nonce())
    connection.challenge(new_nonce())


def test_a_chain_that_is_read_again_is_challenged_as_it_was_read_last(connection: Connection) -> None:
    connection.read_chain()
    connection.challenge(new_nonce())
    connection.read_chain()
    connection.measurements(ALL, new_nonce())
    connection.challenge(new_nonce())


def test_measurements_in_a_session_begin_the_reading_of_the_chain_anew(connection: Connection) -> None:
    with Session.open(connection) as session:
        connection.read_chain()
        session.measurements(ALL, new_nonce())
        connection.challenge(new_nonce())


@pytest.mark.parametrize("place", [4, 36, 50, 68, 100, 120, -97, -96, -4])
def test_a_changed_challenge_is_noticed(connection: Connection, way: Changing, place: int) -> None:
    way.flip(ResponseCode.CHALLENGE_AUTH, place)
    with pytest.raises(EvidenceError, match="CHALLENGE_AUTH"):
        connection.challenge(new_nonce())


@pytest.mark.parametrize("place", [8, 15, 60, 1000, -96, -4])
def test_changed_measurements_are_noticed(connection: Connection, way: Changing, place: int) -> None:
    way.flip(ResponseCode.MEASUREMENTS, place)
    with pytest.raises(EvidenceError):
        connection.measurements(ALL[:1], new_nonce())


@pytest.mark.parametrize("place", [4, 8, 60, 140, 190, -145, -49, -48, -4])
def test_a_changed_key_exchange_is_noticed(connection: Connection, way: Changing, place: int) -> None:
    way.flip(ResponseCode.KEY_EXCHANGE_RSP, place)
    with pytest.raises(EvidenceError):
        Session.open(connection)


def test_a_proof_of_another_key_is_noticed(connection: Connection, way: Changing) -> None:
    """By the requester, before the device sees that its own answer was another one."""
    way.flip(ResponseCode.KEY_EXCHANGE_RSP, -4)
    with pytest.raises(EvidenceError, match="the proof is not made with the key"):
        Session.open(connection)


def test_negotiation_that_somebody_changed_is_noticed(way: Changing) -> None:
    """An attribute that nobody looks at is under every signature all the same."""
    way.flip(ResponseCode.CAPABILITIES, 5)
    connection = Connection(way)
    connection.negotiate()
    connection.read_chain()
    with pytest.raises(EvidenceError, match="CHALLENGE_AUTH: the signature"):
        connection.challenge(new_nonce())


def test_algorithms_that_nobody_offered_are_named(way: Changing) -> None:
    way.flip(ResponseCode.ALGORITHMS, 12)
    with pytest.raises(EvidenceError, match=r"ALGORITHMS: not what was offered: base_asym$"):
        Connection(way).negotiate()


def test_a_changed_certificate_is_noticed(way: Changing) -> None:
    way.flip(ResponseCode.CERTIFICATE, 700)
    connection = Connection(way)
    connection.negotiate()
    with pytest.raises(EvidenceError, match="not the one of DIGESTS"):
        connection.read_chain()


class OneChain:
    """A device that has made up certificates, with the hashes that belong to them."""

    def __init__(self, certificates: Sequence[bytes]) -> None:
        self._chain = encode_chain(HASH(certificates[0]).digest(), certificates)

    def discover(self, timeout_s: float = 1.0) -> list[tuple[int, int]]:
        raise AssertionError("nobody asks")

    def exchange(self, vendor: int, type: int, payload: bytes, timeout_s: float = 1.0) -> bytes:
        if payload[1] == RequestCode.GET_DIGESTS:
            return Digests(slots=1, digests=(HASH(self._chain).digest(),)).encode()
        offset, length = (int.from_bytes(payload[at : at + 2], "little") for at in (4, 6))
        portion = self._chain[offset : offset + length]
        left = len(self._chain) - offset - len(portion)
        return Certificate(slot=0, portion_length=len(portion), remainder_length=left, portion=portion).encode()


def test_a_subject_that_does_not_parse() -> None:
    """The library looks at it when it is asked for, which may be where nobody thinks of it."""
    root = certificate(0).replace(b"certificate 0", b"certificate\xff0")
    with pytest.raises(EvidenceError, match="CERTIFICATE: certificate does not parse"):
        Connection(OneChain([root, certificate(1, ca=False)])).read_chain()


@settings(max_examples=200)
@given(place=st.integers(0, 10_000), value=st.binary(min_size=0, max_size=3), cut=st.integers(0, 3))
def test_certificates_of_any_content_end_in_a_typed_error(place: int, value: bytes, cut: int) -> None:
    """Or are as good as they were: what is spoilt may be what nobody looks at before the signature is checked."""
    leaf = certificate(1, ca=False, more=[(x509.ExtendedKeyUsage([RESPONDER]), False)])
    place %= len(leaf)
    connection = Connection(OneChain([certificate(0), leaf[:place] + value + leaf[place + cut :]]))
    with contextlib.suppress(EvidenceError):
        connection.read_chain()
        check_chain(connection.certificates, datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC))


def test_a_changed_record_is_noticed(connection: Connection, way: Changing) -> None:
    session = Session.open(connection)

    def spoil(answer: bytearray) -> None:
        answer[20] ^= 1

    way.change = spoil
    with pytest.raises(EvidenceError, match="does not decrypt"):
        session.measurements(ALL, new_nonce())


def test_what_the_device_refuses_is_told(connection: Connection, way: Changing) -> None:
    with Session.open(connection), pytest.raises(SpdmRefusedError, match="SESSION_LIMIT_EXCEEDED") as refused:
        Session.open(connection)
    assert refused.value.code == ErrorCode.SESSION_LIMIT_EXCEEDED


def test_a_session_that_fails_is_ended(connection: Connection) -> None:
    with pytest.raises(KeyError), Session.open(connection):
        raise KeyError
    with Session.open(connection):
        pass


def test_a_session_that_the_device_has_forgotten(connection: Connection, way: Changing) -> None:
    session = Session.open(connection)
    way.objects.forget(None)
    with pytest.raises(MailboxError):
        session.measurements(ALL, new_nonce())
