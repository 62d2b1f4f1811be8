# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Asking a device who it is and what runs in it: SPDM 1.2 and secured messages 1.1 over its mailbox.

It shares nothing with the device but the declarations of `ihsm_abi.spdm`; its cryptography is pyca's. A `Connection`
negotiates, reads the certificate chain, challenges and measures; a `Session` does so over encrypted records.
"""

from ihsm.attest.connection import Connection, Exchange, Request, Signed, new_nonce
from ihsm.attest.errors import EvidenceError, SpdmRefusedError
from ihsm.attest.session import Session

__all__ = [
    "Connection",
    "EvidenceError",
    "Exchange",
    "Request",
    "Session",
    "Signed",
    "SpdmRefusedError",
    "new_nonce",
]
