# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Chains of certificates: a good one, and one failure of every kind."""

import dataclasses
import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from ihsm.ddi import CertificateChain, CertificateChainError, Partition
from ihsm.ddi.certificates import chain_thumbprint
from ihsm_abi.ddi import (
    DdiStatus,
    DeviceKind,
    GetCertChainInfoReq,
    GetCertChainInfoResp,
    GetCertificateReq,
    GetCertificateResp,
    GetDeviceInfoReq,
    GetDeviceInfoResp,
    decode_response,
)
from ihsm_abi.mbor import MborMap
from support.certificates import KEYS, certificate
from support.ddi_replay import Responder, lines

REAL_LEAF_CONSTRAINTS = bytes.fromhex("3003020100")


def chain(*der: bytes) -> CertificateChain:
    return CertificateChain(der, chain_thumbprint(der))


ROOT = certificate(0, path_length=1)
ALIAS = certificate(1, path_length=0)
LEAF = certificate(2, ca=False)
GOOD = chain(ROOT, ALIAS, LEAF)


def test_a_good_chain_verifies() -> None:
    GOOD.verify()
    GOOD.verify([GOOD.certificates[0]])
    assert GOOD.identity_key.public_numbers() == KEYS[2].public_key().public_numbers()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (chain(ROOT, certificate(1, path_length=0, signer=2), LEAF), "certificate 1"),
        (chain(ALIAS, ROOT, LEAF), "certificate 0"),
        (chain(ROOT, certificate(1, ca=False), LEAF), "no CA"),
        (chain(certificate(0, path_length=0), ALIAS, LEAF), "path length 0, 1 needed"),
        (chain(ROOT, ALIAS, certificate(2, ca=False, until=2020)), "not valid at"),
        (chain(ROOT, ALIAS, certificate(2, ca=False, signer=0)), "certificate 2"),
        (chain(ROOT, ALIAS, certificate(2, ca=False, leaf_constraints=REAL_LEAF_CONSTRAINTS)), "do not parse"),
        (chain(ROOT, b"no certificate", LEAF), "does not parse"),
        (dataclasses.replace(GOOD, thumbprint=bytes(32)), "thumbprint"),
    ],
)
def test_bad_chains(bad: CertificateChain, message: str) -> None:
    with pytest.raises(CertificateChainError, match=message):
        bad.verify()


def test_untrusted_root() -> None:
    with pytest.raises(CertificateChainError, match="not trusted"):
        GOOD.verify([x509.load_der_x509_certificate(certificate(0))])


def test_the_real_leaf_passes_when_asked_for() -> None:
    real = chain(ROOT, ALIAS, certificate(2, ca=False, leaf_constraints=REAL_LEAF_CONSTRAINTS))
    real.verify(strict_leaf=False)


def test_the_leaf_must_carry_a_p384_key() -> None:
    other = ec.generate_private_key(ec.SECP256R1()).public_key()
    with pytest.raises(CertificateChainError, match="no P-384 key"):
        _ = chain(ROOT, ALIAS, certificate(2, ca=False, key=other)).identity_key


def test_the_simulators_chain_of_one() -> None:
    setup = [line for line in lines("crypto-conversations.jsonl") if line.get("conv") == "setup"]
    found: dict[str, Any] = {
        line["op"]: decode_response(bytes.fromhex(line["resp"]), cls)[1]
        for line in setup
        for op, cls in (("GetCertChainInfo", GetCertChainInfoResp), ("GetCertificate", GetCertificateResp))
        if line["op"] == op
    }
    recorded = CertificateChain((found["GetCertificate"].certificate,), found["GetCertChainInfo"].thumbprint)
    recorded.verify(at=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))


def device(certificates: list[bytes], infos: list[GetCertChainInfoResp]) -> Responder:
    remaining = list(infos)

    def answer(request: MborMap) -> MborMap | DdiStatus:
        if isinstance(request, GetDeviceInfoReq):
            return GetDeviceInfoResp(kind=DeviceKind.Physical, tables=1, fips_approved=False)
        if isinstance(request, GetCertChainInfoReq):
            return remaining.pop(0)
        assert isinstance(request, GetCertificateReq)
        if request.cert_id >= len(certificates):
            return DdiStatus.InvalidCertificate
        return GetCertificateResp(certificate=certificates[request.cert_id])

    return Responder(answer)


def test_reading_a_chain() -> None:
    info = GetCertChainInfoResp(num_certs=3, thumbprint=GOOD.thumbprint)
    transport = device(list(GOOD.der), [info, info])
    assert Partition(transport).certificate_chain() == GOOD
    assert [type(request).__name__ for request in transport.requests[1:]] == [
        "GetCertChainInfoReq",
        *["GetCertificateReq"] * 3,
        "GetCertChainInfoReq",
    ]


def test_a_chain_that_changes_meanwhile() -> None:
    infos = [GetCertChainInfoResp(num_certs=3, thumbprint=bytes([i]) * 32) for i in range(2)]
    with pytest.raises(CertificateChainError, match="changed"):
        Partition(device(list(GOOD.der), infos)).certificate_chain()


def test_no_certificates() -> None:
    info = GetCertChainInfoResp(num_certs=0, thumbprint=bytes(32))
    with pytest.raises(CertificateChainError, match="empty"):
        Partition(device([], [info, info])).certificate_chain()
    with pytest.raises(CertificateChainError, match="no certificates"):
        Partition(device([], [info])).identity_key()
