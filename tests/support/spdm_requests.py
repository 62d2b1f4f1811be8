# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A request of each kind, as bytes, sound but for what only a conversation makes."""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ihsm_abi.spdm import algorithms, opaque
from support.spdm_requester import TABLES

NONCE: Final = bytes(range(32))
POINT: Final = (
    ec.derive_private_key(7, ec.SECP384R1())
    .public_key()
    .public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
)
LIST: Final = opaque.supported_versions()
KEY_EXCHANGE_HEAD: Final = bytes.fromhex("12e40000 cdab 00 00") + NONCE
VENDOR: Final = bytes.fromhex("12fe0000 0300 02 0100 0400 07") + b"abc"
REQUESTS: Final = {
    "GET_VERSION": bytes.fromhex("10840000"),
    "GET_CAPABILITIES": bytes.fromhex("12e10000 0014 0000 c6020000 00100000 00100000"),
    "NEGOTIATE_ALGORITHMS": algorithms.NegotiateAlgorithms.of(tables=TABLES).encode(),
    "GET_DIGESTS": bytes.fromhex("12810000"),
    "GET_CERTIFICATE": bytes.fromhex("12820000 0000 0004"),
    "CHALLENGE": bytes.fromhex("12830000") + NONCE,
    "GET_MEASUREMENTS": bytes.fromhex("12e000ff"),
    "GET_MEASUREMENTS signed": bytes.fromhex("12e001ff") + NONCE + b"\0",
    "KEY_EXCHANGE": KEY_EXCHANGE_HEAD + POINT + bytes([len(LIST), 0]) + LIST,
    "FINISH": bytes.fromhex("12e50000") + bytes(48),
    "END_SESSION": bytes.fromhex("12ec0000"),
    "VENDOR_DEFINED": VENDOR,
    "CHUNK_SEND": bytes.fromhex("12850000"),
    "CHUNK_GET": bytes.fromhex("12860000"),
    "PSK_EXCHANGE": bytes.fromhex("12e60000"),
    "PSK_FINISH": bytes.fromhex("12e70000"),
    "HEARTBEAT": bytes.fromhex("12e80000"),
    "KEY_UPDATE": bytes.fromhex("12e90000"),
    "GET_ENCAPSULATED_REQUEST": bytes.fromhex("12ea0000"),
    "DELIVER_ENCAPSULATED_RESPONSE": bytes.fromhex("12eb0000"),
    "GET_CSR": bytes.fromhex("12ed0000"),
    "SET_CERTIFICATE": bytes.fromhex("12ee0000"),
    "RESPOND_IF_READY": bytes.fromhex("12ff0000"),
    "an answer": bytes.fromhex("12040000"),
    "a code of nobody": bytes.fromhex("12000000"),
}


def patched(name: str, offset: int, value: str) -> bytes:
    """A request with other bytes at an offset."""
    request, other = REQUESTS[name], bytes.fromhex(value)
    return request[:offset] + other + request[offset + len(other) :]
