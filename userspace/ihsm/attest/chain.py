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
from ihsm.ddi.path_validation import parsing, validate_path

RESPONDER: Final = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.3")
"""id-DMTF-eku-responder-auth."""


def check_chain(
    certificates: Sequence[x509.Certificate],
    roots: Collection[x509.Certificate] | None,
    at: datetime.datetime,
) -> None:
    """Validate a chain, root first, whose last key is to sign answers.

    Args:
        certificates: the chain.
        roots: certificates of which the root must be one; None to take whichever the chain begins with.
        at: time to check validity for, with its zone.

    Raises:
        EvidenceError: names the certificate and what is wrong.
    """
    try:
        validate_path(certificates, at=at, strict_leaf=True, trusted_roots=roots)
        with parsing("the last certificate: extensions do not parse"):
            purposes = _purposes(certificates[-1])
    except CertificateChainError as error:
        raise EvidenceError(f"certificate chain: {error}") from None
    if RESPONDER not in purposes:
        # Other keys below the same root sign what their users wish.
        raise EvidenceError("certificate chain: the last certificate is not one of an SPDM responder")


def _purposes(certificate: x509.Certificate) -> Collection[x509.ObjectIdentifier]:
    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return ()
