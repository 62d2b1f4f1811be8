# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# Written by scripts/name-stubs: what type checkers see of `ihsm.ddi`, whose names are loaded when used.

from ihsm.ddi.attestation import AttestationReport, verify_report
from ihsm.ddi.certificates import CertificateChain
from ihsm.ddi.channel import Channel
from ihsm.ddi.credentials import Credential, Entropy
from ihsm.ddi.errors import (
    AttestationError,
    BatchError,
    CertificateChainError,
    DdiError,
    DeviceKeyError,
    NotAsynchronousError,
    RequestError,
    ResponseError,
    StatusError,
)
from ihsm.ddi.keys import Key, KeyInfo, KeyRequest
from ihsm.ddi.partition import Partition
from ihsm.ddi.pota import SoftwareTrustAnchor, TrustAnchor
from ihsm.ddi.session import Session, SessionTicket
from ihsm.ddi.transport import ArrayTransport, AsyncTransport, Reply, Transport

__all__ = [
    "ArrayTransport",
    "AsyncTransport",
    "AttestationError",
    "AttestationReport",
    "BatchError",
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
    "NotAsynchronousError",
    "Partition",
    "Reply",
    "RequestError",
    "ResponseError",
    "Session",
    "SessionTicket",
    "SoftwareTrustAnchor",
    "StatusError",
    "Transport",
    "TrustAnchor",
    "verify_report",
]
