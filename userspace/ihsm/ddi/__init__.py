# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The typed client of the device interface: provisioning, sessions, keys, attestation.

    partition = Partition(transport)
    masked = partition.init_bk3(bk3).masked_bk3
    partition.establish_credential(credential, masked, SoftwareTrustAnchor(owner_key))
    with partition.open_session(credential) as session:
        key = session.generate_ecc_key(EccCurve.P384, KeyRequest(KeyUsage.SignVerify))
        signature = session.ecc_sign(key, digest, HashAlgorithm.Sha384)

Everything on this side is DER and big-endian, whatever the device speaks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ihsm.ddi.attestation import AttestationReport, verify_report
    from ihsm.ddi.certificates import CertificateChain
    from ihsm.ddi.channel import Channel
    from ihsm.ddi.credentials import Credential, Entropy
    from ihsm.ddi.errors import (
        AttestationError,
        CertificateChainError,
        DdiError,
        DeviceKeyError,
        ResponseError,
        StatusError,
    )
    from ihsm.ddi.keys import Key, KeyInfo, KeyRequest
    from ihsm.ddi.partition import Partition
    from ihsm.ddi.pota import SoftwareTrustAnchor, TrustAnchor
    from ihsm.ddi.session import Session, SessionTicket
    from ihsm.ddi.transport import Reply, Transport

_HOMES = {
    "AttestationError": "errors",
    "AttestationReport": "attestation",
    "CertificateChain": "certificates",
    "CertificateChainError": "errors",
    "Channel": "channel",
    "Credential": "credentials",
    "DdiError": "errors",
    "DeviceKeyError": "errors",
    "Entropy": "credentials",
    "Key": "keys",
    "KeyInfo": "keys",
    "KeyRequest": "keys",
    "Partition": "partition",
    "Reply": "transport",
    "ResponseError": "errors",
    "Session": "session",
    "SessionTicket": "session",
    "SoftwareTrustAnchor": "pota",
    "StatusError": "errors",
    "Transport": "transport",
    "TrustAnchor": "pota",
    "verify_report": "attestation",
}
"""Module of each name: loaded when used, since certificates and attestation bring large libraries with them."""

__all__ = [
    "AttestationError",
    "AttestationReport",
    "CertificateChain",
    "CertificateChainError",
    "Channel",
    "Credential",
    "DdiError",
    "DeviceKeyError",
    "Entropy",
    "Key",
    "KeyInfo",
    "KeyRequest",
    "Partition",
    "Reply",
    "ResponseError",
    "Session",
    "SessionTicket",
    "SoftwareTrustAnchor",
    "StatusError",
    "Transport",
    "TrustAnchor",
    "verify_report",
]


def __getattr__(name: str) -> object:
    """Load a name's module."""
    if name in _HOMES:
        return getattr(import_module(f"ihsm.ddi.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
