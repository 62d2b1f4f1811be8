# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The other messages, requests and answers in pairs (DMTF DSP0274 1.2 §10). Slots are the low four bits of theirs."""

from __future__ import annotations

from typing import Final

from ihsm_abi.spdm.codes import (
    HEADER_BYTES,
    NONCE_BYTES,
    VERSION_1_0,
    MeasurementAttributes,
    RequestCode,
    ResponseCode,
)
from ihsm_abi.spdm.layout import Message, agreed, counted, fixed, number, numbers, repeated, sized

VERSION_ENTRY_1_2: Final = 0x1200
"""In VERSION, and, for other standards, in version lists: major and minor number in the upper half."""
VERSION_ENTRY_MASK: Final = 0xFF00
"""Of major and minor number. Updates of a version, below them, are compatible (DSP0274 1.2 §10.2)."""
SLOT_MASK: Final = 0x0F
"""Of slots in GET_CERTIFICATE and GET_MEASUREMENTS; those of CHALLENGE and KEY_EXCHANGE are whole bytes."""


class GetVersion(Message):
    """Request 0x84, always of version 1.0."""

    CODE = RequestCode.GET_VERSION
    VERSION = VERSION_1_0
    param1: int = number(1, default=0)
    param2: int = number(1, default=0)


class Version(Message):
    """Answer 0x04: the versions spoken."""

    CODE = ResponseCode.VERSION
    VERSION = VERSION_1_0
    entries: tuple[int, ...] = numbers(2, 1, reserved=3)


class _Capabilities(Message):
    param1: int = number(1, default=0)
    param2: int = number(1, default=0)
    ct_exponent: int = number(1, reserved=1)
    flags: int = number(4, reserved=2)
    data_transfer_size: int = number(4)
    max_message_size: int = number(4)


class GetCapabilities(_Capabilities):
    """Request 0xE1."""

    CODE = RequestCode.GET_CAPABILITIES


class Capabilities(_Capabilities):
    """Answer 0x61."""

    CODE = ResponseCode.CAPABILITIES


class GetDigests(Message):
    """Request 0x81."""

    CODE = RequestCode.GET_DIGESTS
    param1: int = number(1, default=0)
    param2: int = number(1, default=0)


class Digests(Message):
    """Answer 0x01: the hash of the chain in each slot that has one."""

    CODE = ResponseCode.DIGESTS
    param1: int = number(1, default=0)
    slots: int = number(1)
    digests: tuple[bytes, ...] = repeated(
        lambda reader, sizes: reader.take(sizes.hash), bytes, lambda values: values["slots"].bit_count()
    )


class GetCertificate(Message):
    """Request 0x82: a portion of a chain."""

    CODE = RequestCode.GET_CERTIFICATE
    slot: int = number(1)
    param2: int = number(1, default=0)
    offset: int = number(2)
    length: int = number(2)


class Certificate(Message):
    """Answer 0x02."""

    CODE = ResponseCode.CERTIFICATE
    slot: int = number(1)
    param2: int = number(1, default=0)
    portion_length: int = number(2)
    remainder_length: int = number(2)
    portion: bytes = sized(lambda values: values["portion_length"])


class Challenge(Message):
    """Request 0x83."""

    CODE = RequestCode.CHALLENGE
    slot: int = number(1)
    summary_type: int = number(1)
    nonce: bytes = fixed(NONCE_BYTES)


class ChallengeAuth(Message):
    """Answer 0x03."""

    CODE = ResponseCode.CHALLENGE_AUTH
    attributes: int = number(1)
    """Slot, and in bit 7 a demand for mutual authentication."""
    slots: int = number(1)
    chain_hash: bytes = agreed("hash")
    nonce: bytes = fixed(NONCE_BYTES)
    summary: bytes = agreed("summary")
    opaque: bytes = counted(2)
    signature: bytes = agreed("signature")


class GetMeasurements(Message):
    """Request 0xE0. `operation`: `MeasurementOperation`, or the index of a block."""

    CODE = RequestCode.GET_MEASUREMENTS
    attributes: int = number(1)
    operation: int = number(1)
    nonce: bytes = fixed(
        NONCE_BYTES, default=b"", when=lambda values: bool(values["attributes"] & MeasurementAttributes.SIGNATURE)
    )
    slot: int = number(1, default=0, when=lambda values: bool(values["attributes"] & MeasurementAttributes.SIGNATURE))


class Measurements(Message):
    """Answer 0x60. `record`: blocks (`measurements`)."""

    CODE = ResponseCode.MEASUREMENTS
    total: int = number(1)
    """Number of blocks of the device, if that was asked for."""
    slot: int = number(1)
    """Of a signature, and in bits 4 and 5 whether content has changed."""
    block_count: int = number(1)
    record: bytes = counted(3)
    nonce: bytes = fixed(NONCE_BYTES)
    opaque: bytes = counted(2)
    signature: bytes = agreed("signature")


class KeyExchange(Message):
    """Request 0xE4."""

    CODE = RequestCode.KEY_EXCHANGE
    summary_type: int = number(1)
    slot: int = number(1)
    session_id: int = number(2)
    """The requester's half."""
    session_policy: int = number(1, default=0)
    reserved: int = number(1, default=0)
    random: bytes = fixed(NONCE_BYTES)
    exchange: bytes = agreed("exchange")
    opaque: bytes = counted(2)


class KeyExchangeRsp(Message):
    """Answer 0x64."""

    CODE = ResponseCode.KEY_EXCHANGE_RSP
    heartbeat_period: int = number(1)
    param2: int = number(1)
    session_id: int = number(2)
    """The responder's half."""
    mut_auth_requested: int = number(1)
    slot: int = number(1)
    random: bytes = fixed(NONCE_BYTES)
    exchange: bytes = agreed("exchange")
    summary: bytes = agreed("summary")
    opaque: bytes = counted(2)
    signature: bytes = agreed("signature")
    verify_data: bytes = agreed("verify_data")


class Finish(Message):
    """Request 0xE5."""

    CODE = RequestCode.FINISH
    signed: int = number(1)
    slot: int = number(1)
    signature: bytes = agreed("signature", default=b"", when=lambda values: bool(values["signed"] & 1))
    verify_data: bytes = agreed("hash")


class FinishRsp(Message):
    """Answer 0x65, without proof, for the handshake is not in the clear."""

    CODE = ResponseCode.FINISH_RSP
    param1: int = number(1, default=0)
    param2: int = number(1, default=0)


class EndSession(Message):
    """Request 0xEC."""

    CODE = RequestCode.END_SESSION
    attributes: int = number(1, default=0)
    param2: int = number(1, default=0)


class EndSessionAck(Message):
    """Answer 0x6C."""

    CODE = ResponseCode.END_SESSION_ACK
    param1: int = number(1, default=0)
    param2: int = number(1, default=0)


class _VendorDefined(Message):
    param1: int = number(1, default=0)
    param2: int = number(1, default=0)
    standard: int = number(2)
    """Registry that names the vendor."""
    vendor: bytes = counted(1)
    payload: bytes = counted(2)


class VendorDefinedRequest(_VendorDefined):
    """Request 0xFE."""

    CODE = RequestCode.VENDOR_DEFINED


class VendorDefinedResponse(_VendorDefined):
    """Answer 0x7E."""

    CODE = ResponseCode.VENDOR_DEFINED


PCI_SIG_REGISTRY: Final = 3
PCI_SIG_VENDOR: Final = b"\x01\x00"
"""Vendor of PCI-SIG's own protocols (0x0001). The first byte of their payload is the protocol."""


class Error(Message):
    """Answer 0x7F."""

    CODE = ResponseCode.ERROR
    code: int = number(1)
    data: int = number(1)


class ErrorTooLarge(Error):
    """ERROR of code RESPONSE_TOO_LARGE, with its extended data."""

    response_bytes: int = number(4)
    """Of the answer that the requester does not take."""


assert len(Error(code=0, data=0).encode()) == HEADER_BYTES
