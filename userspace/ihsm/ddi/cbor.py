# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The CBOR of attestation reports (RFC 8949, spec 05 §14.2), and nothing else of CBOR.

A general decoder makes of foreign bytes whatever their tags and keys ask for: dates, patterns, references to itself,
numbers of any length, the last of two values under one key. A report has integers, strings, arrays and maps of definite
length, so everything else is refused here.
"""

from __future__ import annotations

from typing import Final

Value = int | bytes | str | list["Value"] | dict["int | str", "Value"]

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)
_ONE_BYTE_ARGUMENT: Final = 24
_LONGEST_ARGUMENT: Final = 27
_MAX_DEPTH: Final = 4


class CborError(ValueError):
    """Bytes that are not the CBOR of a report; the message says where."""


class _Reader:
    """A position in bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise CborError(f"the data end inside an item at byte {self.position}")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def head(self) -> tuple[int, int]:
        """Major type and argument (RFC 8949 §3)."""
        start = self.position
        first = self.take(1)[0]
        major, argument = first >> 5, first & 0x1F
        if argument > _LONGEST_ARGUMENT:
            raise CborError(f"indefinite length or reserved item {first:#04x} at byte {start}")
        if argument >= _ONE_BYTE_ARGUMENT:
            argument = int.from_bytes(self.take(1 << (argument - _ONE_BYTE_ARGUMENT)), "big")
        return major, argument

    def item(self, depth: int) -> Value:
        start = self.position
        major, argument = self.head()
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major == _BYTES:
            return self.take(argument)
        if major == _TEXT:
            try:
                return self.take(argument).decode()
            except UnicodeDecodeError:
                raise CborError(f"text at byte {start} is no UTF-8") from None
        if major not in (_ARRAY, _MAP):
            raise CborError(
                f"{'tag' if major == _TAG else 'simple value'} {argument} at byte {start} has no place here"
            )
        if depth == _MAX_DEPTH:
            raise CborError(f"more than {_MAX_DEPTH} levels at byte {start}")
        return self._array(argument, depth + 1) if major == _ARRAY else self._map(argument, depth + 1)

    def _array(self, count: int, depth: int) -> list[Value]:
        items: list[Value] = []
        while len(items) < count:  # no list of that length first: the count is the sender's
            items.append(self.item(depth))
        return items

    def _map(self, count: int, depth: int) -> dict[int | str, Value]:
        found: dict[int | str, Value] = {}
        while len(found) < count:
            start = self.position
            key = self.item(depth)
            if not isinstance(key, int | str):
                raise CborError(f"key at byte {start} is neither a number nor text")
            if key in found:
                raise CborError(f"key {key!r} at byte {start} is there twice")
            found[key] = self.item(depth)
        return found


def decode(data: bytes, *, tag: int | None = None) -> Value:
    """The one item that the bytes are, below `tag` where that is given.

    Raises:
        CborError: something else.
    """
    reader = _Reader(data)
    if tag is not None and reader.head() != (_TAG, tag):
        raise CborError(f"no item with tag {tag}")
    value = reader.item(0)
    if reader.position != len(data):
        raise CborError(f"{len(data) - reader.position} bytes after the item")
    return value


def encode_bytes(data: bytes) -> bytes:
    """A byte string, its length in shortest form."""
    length = len(data)
    if length < _ONE_BYTE_ARGUMENT:
        return bytes([_BYTES << 5 | length]) + data
    power = next(power for power in range(4) if length < 1 << (8 << power))
    return bytes([_BYTES << 5 | _ONE_BYTE_ARGUMENT + power]) + length.to_bytes(1 << power, "big") + data
