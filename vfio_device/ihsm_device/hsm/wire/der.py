# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The little DER (X.690) that public keys and certificate extensions need."""

from typing import Final, NamedTuple

INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
NULL: Final = 0x05
OBJECT_IDENTIFIER: Final = 0x06
SEQUENCE: Final = 0x30
_CONTEXT: Final = 0x80
_CONSTRUCTED: Final = 0x20


class DerError(ValueError):
    """Bytes that are not the expected DER."""


class Element(NamedTuple):
    """One element: its tag octet, its contents, and the offset after it."""

    tag: int
    contents: bytes
    end: int


def read(data: bytes, offset: int = 0, *, tag: int | None = None) -> Element:
    """The element at `offset`; raises DerError unless it is complete, of definite minimal length, and has `tag`."""
    if len(data) < offset + 2:
        raise DerError("the element is cut short")
    found, first = data[offset], data[offset + 1]
    start = offset + 2
    length = first
    if first & 0x80:
        count = first & 0x7F
        octets = data[start : start + count]
        length = int.from_bytes(octets, "big")
        if count == 0 or len(octets) < count or octets[0] == 0 or length < 0x80:
            raise DerError("the length is not in its shortest definite form")
        start += count
    if len(data) < start + length:
        raise DerError("the element is cut short")
    if tag is not None and found != tag:
        raise DerError(f"tag {found:#04x} where {tag:#04x} is needed")
    return Element(found, data[start : start + length], start + length)


def element(tag: int, *contents: bytes) -> bytes:
    """An element whose contents are the given pieces."""
    body = b"".join(contents)
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + body


def sequence(*elements: bytes) -> bytes:
    """A SEQUENCE of elements."""
    return element(SEQUENCE, *elements)


def integer(value: int) -> bytes:
    """A non-negative INTEGER."""
    return element(INTEGER, integer_octets(value))


def integer_octets(value: int) -> bytes:
    """The contents of a non-negative INTEGER."""
    return value.to_bytes(value.bit_length() // 8 + 1, "big")


def tagged(number: int, *contents: bytes, constructed: bool = False) -> bytes:
    """An element with the implicit context tag `number`."""
    return element(_CONTEXT | (_CONSTRUCTED if constructed else 0) | number, *contents)


def bit_string(octets: bytes) -> bytes:
    """A BIT STRING of whole octets."""
    return element(BIT_STRING, b"\0", octets)


def object_identifier(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER given as dotted numbers."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    encoded = bytearray()
    for arc in (40 * first + second, *rest):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | (arc & 0x7F))
        encoded += bytes(reversed(groups))
    return element(OBJECT_IDENTIFIER, bytes(encoded))
