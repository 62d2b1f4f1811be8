# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Certificates that are kept with a key: what is none, or is another key's, is refused before it is in the store."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from ihsm.arguments import Octets, octets
from ihsm.errors import ArgumentError


def chain_of(operation: str, certificates: Sequence[Octets], public: object | None) -> tuple[bytes, ...]:
    """The certificates given (DER, leaf first), for the key with this public half, which is None of a secret key.

    Raises:
        ArgumentError: something is no certificate, or the first one is not the key's.
        ArgumentTypeError: something is no bytes.
    """
    chain = tuple(octets(operation, "certificates", each) for each in certificates)
    for number, each in enumerate(chain, 1):
        found = _public_key(operation, number, each)
        if number == 1 and found != public:
            raise ArgumentError(operation, "certificates", "the first one is not this key's; they are given leaf first")
    return chain


def _public_key(operation: str, number: int, der: bytes) -> CertificatePublicKeyTypes | None:
    """That of a certificate; None if it is of a kind that nobody here knows."""
    try:
        certificate = x509.load_der_x509_certificate(der)
    except ValueError as error:
        raise ArgumentError(operation, "certificates", f"number {number} is none in DER: {error}") from None
    try:
        return certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
