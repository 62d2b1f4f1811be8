# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A whole attestation, of devices that are honest and of some that are not."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from cryptography import x509

from ihsm.attest import Evidence, EvidenceError, attest, new_nonce
from ihsm.attest.blocks import NAMES, summary_of
from ihsm.errors import ArgumentError, MailboxNotFoundError
from ihsm_abi.doe import OBJECT_SPDM, PCI_SIG
from ihsm_abi.spdm import manifest
from ihsm_abi.spdm.codes import RequestCode
from support.certificates import certificate
from support.spdm_exchange import FILES, Attested, DirectExchange, attested_device

CLAIMS = ("mailbox", "chain", "root", "challenge", "measurements", "session")


@pytest.fixture(scope="module")
def device() -> Iterator[Attested]:
    with attested_device() as device:
        yield device


class Turning(DirectExchange):
    """The way to a device that becomes another one just before it answers a request for the nth time."""

    def __init__(self, device: Attested, code: RequestCode, turn: Callable[[], None], nth: int = 1) -> None:
        super().__init__(device.exchange().objects)
        self._code, self._turn, self._left = code, turn, nth

    def exchange(self, vendor: int, type: int, payload: bytes, timeout_s: float = 1.0) -> bytes:
        if payload[1] == self._code:
            self._left -= 1
            if not self._left:
                self._turn()
        return super().exchange(vendor, type, payload, timeout_s)


@pytest.fixture
def measures_anew(device: Attested) -> Iterator[Callable[[], None]]:
    """Has the device measure other code from now on."""
    evidence = device.attestation.evidence
    before = evidence.measured

    def turn() -> None:
        last = before[-1]
        evidence.measured = (*before[:-1], replace(last, data=b"intruded"))

    yield turn
    evidence.measured = before


def test_everything_holds(device: Attested) -> None:
    nonce, root = new_nonce(), x509.load_der_x509_certificate(device.root)
    other = x509.load_der_x509_certificate(certificate(0))
    evidence = attest(device.exchange(), nonce=nonce, roots=[other, root])
    assert (evidence.nonce, evidence.root_pinned, evidence.certificates[0]) == (nonce, True, root)
    assert [block.index for block in evidence.blocks] == list(NAMES)
    assert evidence.block(manifest.FILES_BLOCK).data == manifest.short_digests(FILES)
    for index in (manifest.TRUST_BLOCK, manifest.CONTROL_BLOCK, manifest.FAST_BLOCK):
        assert evidence.block(index).content == manifest.image_digest(FILES, index)
    assert summary_of(evidence.blocks) == evidence.summary
    assert [(claim.name, claim.holds) for claim in evidence.claims] == [(name, True) for name in CLAIMS]
    again = attest(device.exchange())
    assert [claim.name for claim in again.claims if claim.holds is None] == ["root"]
    assert again.blocks == evidence.blocks
    assert not again.root_pinned
    assert again.nonce != nonce
    assert again.root_fingerprint == evidence.root_fingerprint


def test_the_nonce_is_what_the_device_signs(device: Attested) -> None:
    nonce, exchange = new_nonce(), device.exchange()
    attest(exchange, nonce=nonce)
    codes = [sent.payload[1] for sent in exchange.sent if nonce in sent.payload]
    assert codes == [RequestCode.CHALLENGE, RequestCode.GET_MEASUREMENTS, RequestCode.GET_MEASUREMENTS]


def test_the_session_is_ended(device: Attested) -> None:
    exchange = device.exchange()
    for _ in range(2):
        attest(exchange)
    assert isinstance(attest(exchange), Evidence)


def test_a_root_that_was_not_named(device: Attested) -> None:
    with pytest.raises(EvidenceError, match="is not trusted"):
        attest(device.exchange(), roots=[x509.load_der_x509_certificate(certificate(0))])


def test_certificates_of_another_time(device: Attested) -> None:
    with pytest.raises(EvidenceError, match="not valid at 2001-01-01"):
        attest(device.exchange(), at=datetime.datetime(2001, 1, 1, tzinfo=datetime.UTC))


@pytest.mark.parametrize(
    ("argument", "value"),
    [("nonce", bytes(31)), ("nonce", b""), ("at", datetime.datetime(2030, 1, 1)), ("timeout_s", float("nan"))],
)
def test_arguments_that_cannot_be(device: Attested, argument: str, value: object) -> None:
    exchange = device.exchange()
    with pytest.raises(ArgumentError, match=f"attest: {argument}: "):
        attest(exchange, **{argument: value})  # type: ignore[arg-type]
    assert not exchange.sent


def test_a_mailbox_without_spdm(device: Attested, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DirectExchange, "discover", lambda self, timeout_s: [(PCI_SIG, 0), (PCI_SIG, OBJECT_SPDM)])
    with pytest.raises(MailboxNotFoundError, match=r"takes no SPDM: .*type 2$"):
        attest(device.exchange())


@pytest.mark.parametrize(
    ("code", "nth", "failed", "says"),
    [
        (RequestCode.GET_MEASUREMENTS, 1, "measurements", "MEASUREMENTS: the blocks do not have the summary"),
        (RequestCode.GET_MEASUREMENTS, 2, "session", None),
        (RequestCode.KEY_EXCHANGE, 1, "session", "KEY_EXCHANGE_RSP: the blocks do not have the summary"),
    ],
)
def test_a_device_that_becomes_another_one(
    device: Attested, measures_anew: Callable[[], None], code: RequestCode, nth: int, failed: str, says: str | None
) -> None:
    """Each of its answers is well signed; together they are no device."""
    exchange = Turning(device, code, measures_anew, nth)
    with pytest.raises(EvidenceError, match=says) as raised:
        attest(exchange)
    *held, last = raised.value.claims
    assert tuple(claim.name for claim in held) == CLAIMS[: CLAIMS.index(failed)]
    assert False not in {claim.holds for claim in held}
    assert last == (failed, False, str(raised.value))


def test_a_device_that_becomes_another_one_in_a_session(
    device: Attested, measures_anew: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ihsm.attest import Session

    honest = Session.measurements

    def measurements(self: Session, *arguments: object) -> object:
        measures_anew()
        return honest(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "measurements", measurements)
    with pytest.raises(EvidenceError, match="MEASUREMENTS in the session: other blocks"):
        attest(device.exchange())


def test_data_that_are_not_those_of_their_hash(device: Attested) -> None:
    """Blocks that are too long to come with the others are asked for alone."""
    evidence = device.attestation.evidence
    before = evidence.measured

    def turn() -> None:
        evidence.measured = tuple(
            replace(each, data=b"{}") if each.index == manifest.FILES_BLOCK + 4 else each for each in before
        )

    try:
        with pytest.raises(EvidenceError, match="the data of block 33 are not those of its hash"):
            attest(Turning(device, RequestCode.GET_MEASUREMENTS, turn, 2))
    finally:
        evidence.measured = before
