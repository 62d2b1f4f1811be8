# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What of a session's messages is a secret: keys of IDE, which the key store leaves out when it opens a record."""

from __future__ import annotations

from typing import Final

from ihsm_abi import ide_km
from ihsm_abi.ide_km import IdeKmObject
from ihsm_abi.spdm.messages import PCI_SIG_REGISTRY, PCI_SIG_VENDOR, VendorDefinedRequest
from ihsm_abi.spdm.secured import plaintext
from ihsm_device.hsm.keystore import Withheld

_LOOSE: Final = frozenset({0, 1, 2, 4, 5, 11, 12})
"""Bytes in front of a key that may be others: lengths of message and payload, version, parameters."""


def _key_of_key_prog() -> Withheld:
    payload = bytes([ide_km.PROTOCOL, IdeKmObject.KEY_PROG])
    message = VendorDefinedRequest(standard=PCI_SIG_REGISTRY, vendor=PCI_SIG_VENDOR, payload=payload).encode()
    text = plaintext(message)
    mask = bytes(0 if place in _LOOSE else 0xFF for place in range(len(text)))
    start = len(text) - 1 + ide_km.KEY_OFFSET
    return Withheld(bytes(a & b for a, b in zip(text, mask, strict=True)), mask, start, start + ide_km.KEY_BYTES)


WITHHELD: Final = _key_of_key_prog()
