# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A certificate chain as it lies in a slot (DMTF DSP0274 1.2 §10.6): a header, the hash of the root, certificates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ihsm_abi.spdm.layout import Layout, Reader, Sizes, SpdmFormatError, agreed, number

SLOT: Final = 0
"""The only slot that has a chain."""
_DER_SEQUENCE: Final = 0x30
_LONG_FORM: Final = 0x80


class _Header(Layout):
    length: int = number(2)
    reserved: int = number(2, default=0)
    root_hash: bytes = agreed("hash")


def encode_chain(root_hash: bytes, certificates: Sequence[bytes]) -> bytes:
    """Certificates in DER, root first."""
    length = len(_Header(length=0, root_hash=root_hash).encode()) + sum(map(len, certificates))
    return _Header(length=length, root_hash=root_hash).encode() + b"".join(certificates)


def decode_chain(chain: bytes, hash_bytes: int) -> tuple[bytes, tuple[bytes, ...]]:
    """The hash of the root, and the certificates in DER; raises SpdmFormatError."""
    reader = Reader(chain)
    header = _Header.read(reader, Sizes(hash=hash_bytes))
    if header.length != len(chain):
        raise SpdmFormatError(f"a chain of {len(chain)} bytes says {header.length}")
    certificates = []
    while reader.offset < len(chain):
        certificates.append(_take_certificate(reader))
    return header.root_hash, tuple(certificates)


def _take_certificate(reader: Reader) -> bytes:
    """One element of DER, whose length is told in its first bytes."""
    head = reader.take(2)
    size = head[1]
    if size & _LONG_FORM:
        octets = reader.take(size & ~_LONG_FORM)
        head += octets
        size = int.from_bytes(octets, "big")
    if head[0] != _DER_SEQUENCE:
        raise SpdmFormatError(f"tag {head[0]:#04x} where a certificate begins")
    return head + reader.take(size)
