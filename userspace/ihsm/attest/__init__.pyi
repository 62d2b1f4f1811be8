# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# Written by scripts/name-stubs: what type checkers see of `ihsm.attest`, whose names are loaded when used.

from ihsm.attest.blocks import MeasuredBlock
from ihsm.attest.claims import Claim
from ihsm.attest.connection import Connection, Exchange, Request, Signed, new_nonce
from ihsm.attest.errors import EvidenceError, ReferenceFileError, ReferenceMismatchError, SpdmRefusedError
from ihsm.attest.evidence import Evidence, attest
from ihsm.attest.reference import Difference, Reference
from ihsm.attest.session import Session

__all__ = [
    "Claim",
    "Connection",
    "Difference",
    "Evidence",
    "EvidenceError",
    "Exchange",
    "MeasuredBlock",
    "Reference",
    "ReferenceFileError",
    "ReferenceMismatchError",
    "Request",
    "Session",
    "Signed",
    "SpdmRefusedError",
    "attest",
    "new_nonce",
]
