# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Chains of certificates: a good one, and one failure of every kind."""

import dataclasses
import datetime
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from ddi_replay import Responder, lines

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

REAL_LEAF_CONSTRAINTS = bytes.fromhex("3003020100")
KEYS = [ec.generate_private_key(ec.SECP384R1()) for _ in range(3)]
USAGE = dict.fromkeys(
    [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ],
    False,
)


def name(number: int) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"certificate {number}")])


def certificate(
    number: int,
    *,
    ca: bool = True,
    path_length: int | None = None,
    signer: int | None = None,
    until: int = 9999,
    leaf_constraints: bytes | None = None,
    key: Any = None,
) -> bytes:
    """Certificate of KEYS[number], issued by the one before it."""
    issuer = max(number - 1, 0)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(number))
        .issuer_name(name(issuer))
        .public_key(key or KEYS[number].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2018, 1, 1))
        .not_valid_after(datetime.datetime(until, 12, 31, 23, 59, 59))
        .add_extension(x509.KeyUsage(**{**USAGE, "key_cert_sign": ca, "digital_signature": not ca}), critical=True)
    )
    if leaf_constraints is None:
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    else:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(x509.BasicConstraints.oid, leaf_constraints), critical=True
        )
    signing_key = KEYS[issuer if signer is None else signer]
    return builder.sign(signing_key, hashes.SHA384()).public_bytes(Encoding.DER)


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
