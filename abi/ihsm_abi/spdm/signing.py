# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What signatures of SPDM 1.2 are over (DMTF DSP0274 1.2 §15): a prefix, what is signed, the hash of a transcript."""

from __future__ import annotations

from enum import Enum
from typing import Final

_PREFIX: Final = b"dmtf-spdm-v1.2.*" * 4
_CONTEXT_BYTES: Final = 36


class SigningContext(bytes, Enum):
    """Which message a signature belongs to."""

    CHALLENGE_AUTH = b"responder-challenge_auth signing"
    MEASUREMENTS = b"responder-measurements signing"
    KEY_EXCHANGE_RSP = b"responder-key_exchange_rsp signing"
    FINISH = b"requester-finish signing"


def signed_message(context: SigningContext, transcript_hash: bytes) -> bytes:
    """The bytes whose hash, the agreed one, ECDSA signs; a signature is r and s, big-endian."""
    return _PREFIX + context.value.rjust(_CONTEXT_BYTES, b"\0") + transcript_hash
