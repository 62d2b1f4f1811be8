# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What MBOR is made of: markers, wire types, declared fields, errors (spec 03 §2); see `ihsm_abi.mbor`."""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, Self

MAP_MARKER = 0xA0
MAP_COUNT_MASK = 0x1F
BOOL_MARKER = 0x14
BYTES_MARKER = 0x80
PAD_MASK = 0x03
UINT_MARKER = 0x18
"""Unsigned integers: the marker is UINT_MARKER + log2(width in bytes)."""


class DecodeErrorKind(enum.Enum):
    """Why a message could not be decoded (spec 03 §2.5)."""

    BufferUnderFlow = enum.auto()
    ExpectedMap = enum.auto()
    ExpectedU8 = enum.auto()
    ExpectedBool = enum.auto()
    InvalidId = enum.auto()
    InvalidLen = enum.auto()
    InvalidPadding = enum.auto()
    InvalidKeyType = enum.auto()
    InvalidKeyData = enum.auto()
    InvalidParameter = enum.auto()


class EncodeErrorKind(enum.Enum):
    """Why a value could not be encoded (spec 03 §2.5)."""

    BufferOverflow = enum.auto()
    DerDecodeFailed = enum.auto()
    InvalidLen = enum.auto()
    InvalidParameter = enum.auto()


class MborError(ValueError):
    """Base of both codec errors."""


class MborDecodeError(MborError):
    """Input that is no encoding of the expected type; `where` names the element."""

    def __init__(self, kind: DecodeErrorKind, where: str = "") -> None:
        """Error of one kind at the element `where`."""
        super().__init__(f"{kind.name} at {where}" if where else kind.name)
        self.kind = kind
        self.where = where


class MborEncodeError(MborError):
    """A value that the field's declaration does not admit; `where` names the field."""

    def __init__(self, kind: EncodeErrorKind, where: str = "") -> None:
        """Error of one kind at the field `where`."""
        super().__init__(f"{kind.name} at {where}" if where else kind.name)
        self.kind = kind
        self.where = where


class OpenEnum(enum.IntEnum):
    """A u32 enumeration whose unknown values survive decoding (spec 03 §9).

    `KeyType(99)` is a value of type KeyType that equals 99, is named "Unknown" and is not `known`.
    """

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, int) or not 0 <= value <= 0xFFFF_FFFF:
            return None
        member = int.__new__(cls, value)
        member._name_ = "Unknown"
        member._value_ = value
        return member

    @property
    def known(self) -> bool:
        """Whether the interface defines this value."""
        return self._value_ in type(self)._value2member_map_


@dataclasses.dataclass(frozen=True, slots=True)
class FieldSpec:
    """Wire declaration of one map entry: the id it is sent under."""

    id: int


class U8(FieldSpec):
    """Unsigned 8-bit integer, 2 bytes on the wire."""


class U16(FieldSpec):
    """Unsigned 16-bit integer, 3 bytes on the wire."""


class U32(FieldSpec):
    """Unsigned 32-bit integer, 5 bytes on the wire."""


class U64(FieldSpec):
    """Unsigned 64-bit integer, 9 bytes on the wire."""


class Bool(FieldSpec):
    """Truth value, 1 byte on the wire."""


class Enum32(FieldSpec):
    """Open enumeration sent as u32; the annotated type is the `OpenEnum` class."""


class Nested(FieldSpec):
    """Nested map; the annotated type is its `MborMap` class."""


@dataclasses.dataclass(frozen=True, slots=True)
class Octets(FieldSpec):
    """Byte array of 0 to `max` bytes, its data aligned to 4 bytes within the message."""

    max: int
    secret: bool = dataclasses.field(default=False, kw_only=True)
    """Key material in the clear, or data of the user's: no recording may have it (`ihsm_abi.ddi.cutting`)."""


@dataclasses.dataclass(frozen=True, slots=True)
class FixedOctets(FieldSpec):
    """Byte array of exactly `size` bytes, never padded."""

    size: int
    secret: bool = dataclasses.field(default=False, kw_only=True)
    """As that of `Octets`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One declared entry of a map type."""

    name: str
    spec: FieldSpec
    optional: bool
    type: Any
    """int, bool, bytes, or the enumeration or map class."""


Encoder = Callable[[Any, int], bytes]
"""(value, offset of its first byte modulo 4 within the message) -> encoding."""
Decoder = Callable[[bytes, int], tuple[Any, int]]
"""(message, offset) -> (value, offset after it). Raises IndexError or struct.error where the input ends."""
