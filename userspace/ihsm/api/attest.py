# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Attestation of a key: the device's report, verified on this side before anyone gets it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

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


class Attested(Protocol):
    """What is needed of a key, see `ihsm.api.handles.Handle`."""

    connection: Connection

    @property
    def some(self) -> tuple[bytes, ...]:
        """Masked keys of one usage or another."""

    def run_with(self, operation: str, masked: tuple[bytes, ...], use: Callable[..., Procedure[bytes]]) -> bytes:
        """Have `use` work with keys in the device."""


def attest(handle: Attested, report_data: Octets, public: bytes | None) -> VerifiedReport:
    """Have the device report on a key with up to 128 bytes of the caller's, and verify what it says.

    Raises:
        ArgumentError, ArgumentTypeError: longer report data, or no bytes.
        AttestationError, CertificateChainError: the report or the chain does not verify, or is about another key.
    """
    data = octets("attest", "report_data", report_data)
    if len(data) > REPORT_DATA_BYTES:
        raise ArgumentError("attest", "report_data", f"{len(data)} bytes, at most {REPORT_DATA_BYTES} possible")

    def use(key: Key) -> Procedure[bytes]:
        report: bytes = yield Ask(calls.attest(key, data))
        return report

    report = handle.run_with("attest", handle.some[:1], use)
    chain = handle.connection.run(_chain)
    chain.verify(strict_leaf=False)
    content = ddi.verify_report(report, chain.identity_key, report_data=data)
    if public is not None and (content.public_key is None or _spki(content.public_key) != public):
        raise ddi.AttestationError("attestation report: about another key than the one asked for")
    return VerifiedReport(report, content, chain)


def _chain(link: Link) -> Procedure[CertificateChain]:
    yield from ()
    return link.partition.certificate_chain()


def _spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
