# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""From the shared secret to the keys of a session (DMTF DSP0274 1.2 §12).

Every step is an HMAC: HKDF's extract, or its expand with `info`. Handshake secret = extract(zeros, shared secret);
master secret = extract(expand(handshake secret, DERIVED), zeros). Of either a secret per direction follows by its label
and the hash of the transcript, of that the keys.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from ihsm_abi.spdm.secured import AEAD_IV_BYTES, AEAD_KEY_BYTES

_VERSION: Final = b"spdm1.2 "


class Label(bytes, Enum):
    """What is derived. Those with a transcript: context is its hash."""

    DERIVED = b"derived"
    """Salt of the master secret."""
    REQUEST_HANDSHAKE = b"req hs data"
    """With transcript TH1, as the next."""
    RESPONSE_HANDSHAKE = b"rsp hs data"
    REQUEST_DATA = b"req app data"
    """With transcript TH2, as the next two."""
    RESPONSE_DATA = b"rsp app data"
    EXPORT_MASTER = b"exp master"
    FINISHED = b"finished"
    """Key of the proofs of a handshake."""
    KEY = b"key"
    IV = b"iv"
    TRAFFIC_UPDATE = b"traffic upd"


def info(length: int, label: Label, context: bytes = b"") -> bytes:
    """What HKDF's expand gets besides the secret, for `length` bytes."""
    return length.to_bytes(2, "little") + _VERSION + label.value + context


KEY_INFO: Final = info(AEAD_KEY_BYTES, Label.KEY)
IV_INFO: Final = info(AEAD_IV_BYTES, Label.IV)
