# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How messages are declared: dataclasses whose fields know their place in the bytes, read and written by one codec.

Numbers are little-endian. A few lengths are agreed on before a message is sent (hash, signature, public key of the
exchange); who reads one gives them as `Sizes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, Self, dataclass_transform

from ihsm_abi.spdm.codes import HEADER_BYTES, VERSION_1_2

PADDING_BYTES: Final = 3
"""A data object is whole dwords (PCIe 6.x 6.30), so that up to so many bytes may follow a message."""
_FORM: Final = "form"


class SpdmFormatError(ValueError):
    """Bytes that are not the message they should be."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Lengths in bytes that no message tells; 0 where the field is absent."""

    hash: int = 48
    signature: int = 96
    exchange: int = 96
    summary: int = 0
    """Of a measurement summary hash: that of a hash if one was asked for."""
    verify_data: int = 48
    """Of the responder's proof in KEY_EXCHANGE_RSP."""


class Reader:
    """Bytes, taken from the front."""

    def __init__(self, data: bytes) -> None:
        """Begin at the first."""
        self._data = data
        self.offset = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes; raises SpdmFormatError if there are fewer."""
        end = self.offset + size
        if end > len(self._data):
            raise SpdmFormatError(f"{len(self._data)} bytes, where byte {end} is needed")
        piece = self._data[self.offset : end]
        self.offset = end
        return piece

    def number(self, width: int) -> int:
        """The next number of `width` bytes."""
        return int.from_bytes(self.take(width), "little")

    def end(self) -> None:
        """Raise SpdmFormatError unless everything was taken."""
        if self.offset != len(self._data):
            raise SpdmFormatError(f"{len(self._data)} bytes, where {self.offset} are needed")


Values = Mapping[str, Any]
Presence = Callable[[Values], bool]
Count = Callable[[Values], int]


@dataclass(frozen=True, slots=True)
class _Form:
    """How a field is read and written."""

    read: Callable[[Reader, Values, Sizes], Any]
    write: Callable[[Any], bytes]
    reserved: int = 0
    """Bytes before the field that mean nothing."""
    when: Presence | None = None
    """Absent, and of its default value, unless this holds for the fields before it."""


def number(width: int, *, default: int | None = None, reserved: int = 0, when: Presence | None = None) -> Any:
    """An unsigned number of `width` bytes."""
    form = _Form(
        lambda reader, _values, _sizes: reader.number(width), lambda value: _packed(value, width), reserved, when
    )
    return _declared(form, default)


def fixed(size: int, *, default: bytes | None = None, when: Presence | None = None) -> Any:
    """Bytes of a length that never changes."""
    return _declared(_Form(lambda reader, _values, _sizes: reader.take(size), _exactly(size), when=when), default)


def agreed(which: str, *, default: bytes | None = None, when: Presence | None = None) -> Any:
    """Bytes of an agreed length: the name of a field of `Sizes`."""
    form = _Form(lambda reader, _values, sizes: reader.take(getattr(sizes, which)), bytes, when=when)
    return _declared(form, default)


def counted(width: int) -> Any:
    """Bytes behind a number of `width` bytes that says how many there are."""
    return _declared(
        _Form(
            lambda reader, _values, _sizes: reader.take(reader.number(width)),
            lambda value: _packed(len(value), width) + value,
        )
    )


def sized(count: Count) -> Any:
    """Bytes; how many follows from the fields before."""
    return _declared(_Form(lambda reader, values, _sizes: reader.take(count(values)), bytes))


def numbers(width: int, count_width: int, *, reserved: int = 0) -> Any:
    """A tuple of numbers of `width` bytes, behind a number of them."""
    return _declared(
        _Form(
            lambda reader, _values, _sizes: tuple(reader.number(width) for _ in range(reader.number(count_width))),
            lambda value: _packed(len(value), count_width) + b"".join(_packed(each, width) for each in value),
            reserved,
        )
    )


def repeated(
    read: Callable[[Reader, Sizes], Any],
    write: Callable[[Any], bytes],
    count: Count,
    *,
    default: tuple[()] | None = None,
) -> Any:
    """A tuple of items; how many there are follows from the fields before."""
    return _declared(
        _Form(
            lambda reader, values, sizes: tuple(read(reader, sizes) for _ in range(count(values))),
            lambda value: b"".join(map(write, value)),
        ),
        default,
    )


def _declared(form: _Form, default: Any = None) -> Any:
    return field(metadata={_FORM: form}) if default is None else field(default=default, metadata={_FORM: form})


def _packed(value: int, width: int) -> bytes:
    return int(value).to_bytes(width, "little")


def _exactly(size: int) -> Callable[[bytes], bytes]:
    def write(value: bytes) -> bytes:
        if len(value) != size:
            raise ValueError(f"{len(value)} bytes in a field of {size}")
        return bytes(value)

    return write


@dataclass_transform(
    frozen_default=True,
    kw_only_default=True,
    field_specifiers=(number, fixed, agreed, counted, sized, numbers, repeated),
)
class Layout:
    """Bytes with named fields; a subclass is made a frozen dataclass, whose fields are given by name."""

    _fields: ClassVar[tuple[tuple[str, _Form, Any], ...]]
    """Name, form and default of each, in their order in the bytes."""

    def __init_subclass__(cls) -> None:
        """Make the class a dataclass."""
        made: Any = dataclass(frozen=True, kw_only=True)(cls)
        cls._fields = tuple((each.name, each.metadata[_FORM], each.default) for each in fields(made))

    @classmethod
    def read(cls, reader: Reader, sizes: Sizes = Sizes()) -> Self:
        """Take the fields; raises SpdmFormatError if bytes are missing or contradict each other."""
        values: dict[str, Any] = {}
        for name, form, default in cls._fields:
            if form.when is None or form.when(values):
                reader.take(form.reserved)
                values[name] = form.read(reader, values, sizes)
            else:
                values[name] = default
        return cls(**values)

    def encode(self) -> bytes:
        """The bytes; reserved ones are 0."""
        values = vars(self)
        return b"".join(
            bytes(form.reserved) + form.write(values[name])
            for name, form, _ in self._fields
            if form.when is None or form.when(values)
        )


class Message(Layout):
    """A message: version, code, two parameters that each message names, then its own fields."""

    CODE: ClassVar[int]
    VERSION: ClassVar[int] = VERSION_1_2

    def encode(self, version: int | None = None) -> bytes:
        """The bytes, with the message's own version unless another is given."""
        return bytes([self.VERSION if version is None else version, self.CODE]) + super().encode()

    @classmethod
    def decode(cls, data: bytes, sizes: Sizes = Sizes(), *, padding: int = PADDING_BYTES) -> tuple[Self, int]:
        """The message at the front of `data`, and its length, which transcripts need.

        What may follow it is `padding` bytes at most. Its version is not looked at.

        Raises:
            SpdmFormatError: another code, bytes missing or left over, fields that contradict each other.
        """
        reader = Reader(data)
        if len(data) < HEADER_BYTES or data[1] != cls.CODE:
            raise SpdmFormatError(f"no {cls.__name__}")
        reader.take(2)
        message = cls.read(reader, sizes)
        message.check(reader.offset)
        if len(data) - reader.offset > padding:
            raise SpdmFormatError(f"{len(data)} bytes in a message of {reader.offset}")
        return message, reader.offset

    def check(self, size: int) -> None:
        """Raise SpdmFormatError if what was read, `size` bytes, contradicts itself."""
