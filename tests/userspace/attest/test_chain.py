# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Chains of responders: which prove something, and which do not."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import pytest
from cryptography import x509

from ihsm.attest import EvidenceError
from ihsm.attest.chain import RESPONDER, check_chain, check_root
from support.certificates import certificate
from support.spdm_exchange import Attested, attested_device

NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
ATTESTS = x509.ObjectIdentifier("2.23.133.5.4.100.9")


def chain(*purposes: x509.ObjectIdentifier, signer: int = 0, until: int = 9999) -> list[x509.Certificate]:
    """A root, and a certificate below it whose key is for these purposes."""
    more = [(x509.ExtendedKeyUsage(purposes), False)] if purposes else []
    leaf = certificate(1, ca=False, signer=signer, until=until, more=more)
    return [x509.load_der_x509_certificate(der) for der in (certificate(0), leaf)]


GOOD = chain(ATTESTS, RESPONDER)


def test_chains_that_prove() -> None:
    check_chain(GOOD, NOW)
    check_root(GOOD[0], [*chain(ATTESTS), GOOD[0]])


@pytest.mark.parametrize(
    ("certificates", "says"),
    [
        ([], "there is no certificate"),
        (chain(ATTESTS, RESPONDER, signer=2), "wrong signature"),
        (chain(ATTESTS, RESPONDER, until=2029), "not valid at 2030-01-01"),
        (chain(RESPONDER), "extended key usage does not allow"),
        (chain(ATTESTS), "not one of an SPDM responder"),
        (chain(), "not one of an SPDM responder"),
        (GOOD[:1], "not one of an SPDM responder"),
        (GOOD[::-1], "wrong signature|issuer"),
    ],
)
def test_chains_that_do_not(certificates: list[x509.Certificate], says: str) -> None:
    with pytest.raises(EvidenceError, match=f"certificate chain: .*({says})"):
        check_chain(certificates, NOW)


def test_a_root_that_is_not_trusted() -> None:
    for roots in ([], GOOD[1:], chain(ATTESTS, RESPONDER)[:1]):
        with pytest.raises(EvidenceError, match="root CN=certificate 0 is not trusted"):
            check_root(GOOD[0], roots)


@pytest.fixture(scope="module")
def device() -> Iterator[Attested]:
    with attested_device() as device:
        yield device


def test_what_signs_reports_signs_no_answers(device: Attested) -> None:
    """The chain of the DDI has the same root, and its last key signs what a guest likes."""
    certificates = [x509.load_der_x509_certificate(der) for der in device.hsm.record.certificates]
    with pytest.raises(EvidenceError, match="certificate chain"):
        check_chain(certificates, NOW)
