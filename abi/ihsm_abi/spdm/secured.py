# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Secured messages in data objects (DMTF DSP0277 1.1; PCIe 6.x 6.31): the record around a message of a session.

A record is the session's id, the length of what follows, the ciphertext of a length and the message, and a tag. Over a
mailbox it carries no sequence number: both sides count.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ihsm_abi.spdm.layout import PADDING_BYTES, Layout, Reader, SpdmFormatError, counted, number

AEAD_KEY_BYTES: Final = 32
AEAD_IV_BYTES: Final = 12
TAG_BYTES: Final = 16
_ID_BYTES: Final = 4
HEADER_BYTES: Final = 6
"""Session id and length: what is authenticated and not encrypted."""
LENGTH_BYTES: Final = 2
"""Of the message, in front of it, encrypted."""
OVERHEAD_BYTES: Final = HEADER_BYTES + LENGTH_BYTES + TAG_BYTES
MAX_SEQUENCE: Final = 2**64 - 1


class Record(NamedTuple):
    """A record taken apart."""

    session_id: int
    """Requester's half in bits 0 to 15, responder's above."""
    header: bytes
    """Associated data."""
    ciphertext: bytes
    tag: bytes


class _Wire(Layout):
    session_id: int = number(_ID_BYTES)
    rest: bytes = counted(2)


class _Plain(Layout):
    message: bytes = counted(LENGTH_BYTES)


def session_id(requester: int, responder: int) -> int:
    """The whole id of a session."""
    return responder << 16 | requester


def session_id_of(data: bytes) -> int | None:
    """The session that a record says it is of, whatever else it is; None if it is too short to say."""
    return int.from_bytes(data[:_ID_BYTES], "little") if len(data) >= _ID_BYTES else None


def record_header(session: int, message_bytes: int) -> bytes:
    """Associated data of a record around a message of that length."""
    length = LENGTH_BYTES + message_bytes + TAG_BYTES
    return session.to_bytes(_ID_BYTES, "little") + length.to_bytes(2, "little")


def plaintext(message: bytes) -> bytes:
    """What a record encrypts."""
    return _Plain(message=message).encode()


def message_of(plain: bytes) -> bytes:
    """The message in what was decrypted; random bytes may follow it. Raises SpdmFormatError."""
    return _Plain.read(Reader(plain)).message


def read_record(data: bytes) -> Record:
    """Take a record apart, up to three bytes of padding behind it; raises SpdmFormatError."""
    reader = Reader(data)
    wire = _Wire.read(reader)
    if len(data) - reader.offset > PADDING_BYTES:
        raise SpdmFormatError(f"{len(data)} bytes in a record of {reader.offset}")
    if len(wire.rest) < LENGTH_BYTES + TAG_BYTES:
        raise SpdmFormatError(f"{len(wire.rest)} bytes of ciphertext and tag")
    return Record(wire.session_id, data[:HEADER_BYTES], wire.rest[:-TAG_BYTES], wire.rest[-TAG_BYTES:])


def record_iv(salt: bytes, sequence: int) -> bytes:
    """The nonce of the record with that number: the key schedule's IV and the number, little-endian, bit by bit."""
    return bytes(a ^ b for a, b in zip(salt, sequence.to_bytes(AEAD_IV_BYTES, "little"), strict=True))
