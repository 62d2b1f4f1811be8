# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a responder's certificate chain leads from a root to a key that may prove (RFC 5280, DSP0274 1.2 §10.6)."""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence
from typing import Final

from cryptography import x509

from ihsm.attest.errors import EvidenceError
from ihsm.ddi.errors import CertificateChainError
from ihsm.ddi.path_validation import parsing, require_trusted, validate_path

RESPONDER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.3")
"""id-DMTF-eku-responder-auth."""


def check_chain(
    certificates: Sequence[x509.Certificate],
    at: datetime.datetime,
) -> None:
    """Validate a chain, root first, whose last key is to sign answers; whether its root is to be trusted is not said.

    Args:
        certificates: the chain.
        at: time to check validity for, with its zone.

    Raises:
        EvidenceError: names the certificate and what is wrong.
    """
    try:
        validate_path(certificates, at=at, strict_leaf=True)
        with parsing("the last certificate: extensions do not parse"):
            purposes = _purposes(certificates[-1])
    except CertificateChainError as error:
        raise EvidenceError(f"certificate chain: {error}") from None
    if RESPONDER not in purposes:
        # Other keys below the same root sign what their users wish.
        raise EvidenceError("certificate chain: the last certificate is not one of an SPDM responder")


def check_root(root: x509.Certificate, trusted: Collection[x509.Certificate]) -> None:
    """See that a chain begins with one of the certificates that are trusted; EvidenceError if not."""
    try:
        require_trusted(root, trusted)
    except CertificateChainError as error:
        raise EvidenceError(f"certificate chain: {error}") from None


def _purposes(certificate: x509.Certificate) -> Collection[x509.ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return ()
