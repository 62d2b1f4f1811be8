# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers of SPDM 1.2 messages: versions, request and response codes, errors (DMTF DSP0274 1.2 §9, §10)."""

from enum import IntEnum, IntFlag
from typing import Final

VERSION_1_0: Final = 0x10
"""In the header of GET_VERSION and its answer, and of errors before a version is agreed on."""
VERSION_1_2: Final = 0x12
"""The one version that this device speaks."""
HEADER_BYTES: Final = 4
NONCE_BYTES: Final = 32
MIN_TRANSFER_BYTES: Final = 42
"""Least DataTransferSize that a party may announce."""
MAX_MESSAGE_BYTES: Final = 4088
"""DataTransferSize and MaxSPDMmsgSize of the device: a data object of 4096 bytes without its header (spec 06 §2.1)."""


class RequestCode(IntEnum):
    """What a requester asks for; those that the device serves are in `SERVED`."""

    GET_DIGESTS = 0x81
    GET_CERTIFICATE = 0x82
    CHALLENGE = 0x83
    GET_VERSION = 0x84
    CHUNK_SEND = 0x85
    CHUNK_GET = 0x86
    GET_MEASUREMENTS = 0xE0
    GET_CAPABILITIES = 0xE1
    NEGOTIATE_ALGORITHMS = 0xE3
    KEY_EXCHANGE = 0xE4
    FINISH = 0xE5
    PSK_EXCHANGE = 0xE6
    PSK_FINISH = 0xE7
    HEARTBEAT = 0xE8
    KEY_UPDATE = 0xE9
    GET_ENCAPSULATED_REQUEST = 0xEA
    DELIVER_ENCAPSULATED_RESPONSE = 0xEB
    END_SESSION = 0xEC
    GET_CSR = 0xED
    SET_CERTIFICATE = 0xEE
    VENDOR_DEFINED = 0xFE
    RESPOND_IF_READY = 0xFF


SERVED: Final = frozenset(
    {
        RequestCode.GET_VERSION,
        RequestCode.GET_CAPABILITIES,
        RequestCode.NEGOTIATE_ALGORITHMS,
        RequestCode.GET_DIGESTS,
        RequestCode.GET_CERTIFICATE,
        RequestCode.CHALLENGE,
        RequestCode.GET_MEASUREMENTS,
        RequestCode.KEY_EXCHANGE,
        RequestCode.FINISH,
        RequestCode.END_SESSION,
        RequestCode.VENDOR_DEFINED,
    }
)
"""Requests of the device; every other is an UNSUPPORTED_REQUEST (spec 06 §2.1)."""

_BREAK_CHAIN_READ: Final = frozenset(
    {
        RequestCode.GET_MEASUREMENTS,
        RequestCode.KEY_EXCHANGE,
        RequestCode.FINISH,
        RequestCode.PSK_EXCHANGE,
        RequestCode.PSK_FINISH,
        RequestCode.KEY_UPDATE,
        RequestCode.HEARTBEAT,
        RequestCode.GET_ENCAPSULATED_REQUEST,
        RequestCode.DELIVER_ENCAPSULATED_RESPONSE,
        RequestCode.END_SESSION,
    }
)


def begins_chain_anew(code: int, *, challenged: bool) -> bool:
    """Whether a request begins anew what the next CHALLENGE signs, M1, served or not (DSP0274 1.2 §10.8, table 38).

    GET_DIGESTS always does: the digests of one reading of the chain are what M1 begins with, as requesters have it.
    The others do unless there has been a CHALLENGE since the negotiation (`challenged`).
    """
    return code == RequestCode.GET_DIGESTS or (code in _BREAK_CHAIN_READ and not challenged)


class ResponseCode(IntEnum):
    """What a responder answers."""

    DIGESTS = 0x01
    CERTIFICATE = 0x02
    CHALLENGE_AUTH = 0x03
    VERSION = 0x04
    MEASUREMENTS = 0x60
    CAPABILITIES = 0x61
    ALGORITHMS = 0x63
    KEY_EXCHANGE_RSP = 0x64
    FINISH_RSP = 0x65
    END_SESSION_ACK = 0x6C
    VENDOR_DEFINED = 0x7E
    ERROR = 0x7F


class ErrorCode(IntEnum):
    """Param1 of ERROR."""

    INVALID_REQUEST = 0x01
    BUSY = 0x03
    UNEXPECTED_REQUEST = 0x04
    UNSPECIFIED = 0x05
    DECRYPT_ERROR = 0x06
    UNSUPPORTED_REQUEST = 0x07
    """Param2: the code of the request."""
    REQUEST_IN_FLIGHT = 0x08
    INVALID_RESPONSE_CODE = 0x09
    SESSION_LIMIT_EXCEEDED = 0x0A
    SESSION_REQUIRED = 0x0B
    RESET_REQUIRED = 0x0C
    RESPONSE_TOO_LARGE = 0x0D
    REQUEST_TOO_LARGE = 0x0E
    LARGE_RESPONSE = 0x0F
    MESSAGE_LOST = 0x10
    INVALID_POLICY = 0x11
    VERSION_MISMATCH = 0x41
    RESPONSE_NOT_READY = 0x42
    REQUEST_RESYNCH = 0x43
    VENDOR_DEFINED = 0xFF


class Capability(IntFlag):
    """Flags of GET_CAPABILITIES and CAPABILITIES; a few are the responder's alone."""

    CACHE = 1 << 0
    CERT = 1 << 1
    CHAL = 1 << 2
    MEAS_NO_SIGNATURE = 1 << 3
    MEAS_SIGNATURE = 1 << 4
    MEAS_FRESH = 1 << 5
    ENCRYPT = 1 << 6
    MAC = 1 << 7
    MUT_AUTH = 1 << 8
    KEY_EX = 1 << 9
    PSK = 1 << 10
    PSK_WITH_CONTEXT = 1 << 11
    ENCAP = 1 << 12
    HBEAT = 1 << 13
    KEY_UPD = 1 << 14
    HANDSHAKE_IN_THE_CLEAR = 1 << 15
    PUB_KEY_ID = 1 << 16
    CHUNK = 1 << 17
    ALIAS_CERT = 1 << 18
    SET_CERT = 1 << 19
    CSR = 1 << 20
    CERT_INSTALL_RESET = 1 << 21


RESPONDER_CAPABILITIES: Final = (
    Capability.CERT
    | Capability.CHAL
    | Capability.MEAS_SIGNATURE
    | Capability.ENCRYPT
    | Capability.MAC
    | Capability.KEY_EX
    | Capability.ALIAS_CERT
)
"""What the device announces over DOE (spec 06 §2.1)."""
CT_EXPONENT: Final = 20
"""Longest time for cryptography: 2 to the power of this, in microseconds."""


class SummaryType(IntEnum):
    """Which measurements a summary hash is over (CHALLENGE, KEY_EXCHANGE)."""

    NONE = 0
    TCB = 1
    ALL = 0xFF


class MeasurementOperation(IntEnum):
    """Param2 of GET_MEASUREMENTS, where it is not the index of a block."""

    COUNT = 0
    ALL = 0xFF


class MeasurementAttributes(IntFlag):
    """Param1 of GET_MEASUREMENTS."""

    SIGNATURE = 1
    RAW = 2
