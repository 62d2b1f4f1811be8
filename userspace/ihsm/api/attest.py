# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Attestation of a key: the device's report, verified on this side before anyone gets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm import ddi
from ihsm.api.connection import Connection, Link
from ihsm.api.steps import Ask, Procedure
from ihsm.arguments import Octets, octets
from ihsm.ddi import AttestationReport, CertificateChain, Key, calls
from ihsm.ddi.keys import PublicKey
from ihsm.errors import ArgumentError
from ihsm_abi.ddi.attestation import REPORT_DATA_BYTES


@dataclass(frozen=True, slots=True)
class VerifiedReport:
    """A report whose signature verifies under the identity key of a chain that verifies."""

    report: bytes
    """COSE_Sign1, for a verifier elsewhere (`ihsm verify-report`)."""
    content: AttestationReport
    chain: CertificateChain
    """Of the device that made it, root first. Whether its root is to be trusted is the verifier's decision."""


def attest(
    connection: Connection, masked_keys: Sequence[bytes], report_data: Octets, public: bytes | None
) -> VerifiedReport:
    """Have the device report on a key with up to 128 bytes of the caller's, and verify what it says.

    Raises:
        ArgumentError: longer report data.
        AttestationError, CertificateChainError: the report or the chain does not verify, or is about another key.
    """
    data = octets("attest", "report_data", report_data)
    if len(data) > REPORT_DATA_BYTES:
        raise ArgumentError("attest", "report_data", f"{len(data)} bytes, at most {REPORT_DATA_BYTES} possible")

    def use(*keys: Key) -> Procedure[bytes]:
        report: bytes = yield Ask(calls.attest(keys[0], data))
        return report

    def make(link: Link) -> Procedure[tuple[bytes, CertificateChain]]:
        report = yield from link.residents.held(masked_keys[:1], use)
        return report, link.partition.certificate_chain()

    report, chain = connection.run(make)
    chain.verify(strict_leaf=False)
    content = ddi.verify_report(report, chain.identity_key, report_data=data)
    if public is not None and (content.public_key is None or _spki(content.public_key) != public):
        raise ddi.AttestationError("attestation report: about another key than the one asked for")
    return VerifiedReport(report, content, chain)


def _spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
