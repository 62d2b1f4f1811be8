# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Traces as pcapng files: each record an exported PDU for the dissector `ihsm`, each function an interface.

The format is that of draft-ietf-opsawg-pcapng: a section header, interface descriptions, enhanced packets. Link type
252 (exported PDU) puts tags before the data, of which the dissector's name is the one that counts. The reader takes
what other programs make of such a file, of either byte order: other blocks and other link types are passed over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from ihsm.errors import TraceCutError, TraceError
from ihsm.trace.records import HEADER, HEADER_BYTES, MAX_BODY_BYTES, Record, decode
from ihsm_abi.trace import DISSECTOR_NAME, MAX_RECORD_BYTES

LINKTYPE_EXPORTED_PDU: Final = 252
SECTION: Final = 0x0A0D0D0A
INTERFACE: Final = 1
PACKET: Final = 6
BYTE_ORDER_MAGIC: Final = 0x1A2B3C4D
MAX_BLOCK_BYTES: Final = 16 * 1024 * 1024
"""Of a file that is read; what is longer is no block."""
MAX_INTERFACES: Final = 65536

_OPTION_NAME, _OPTION_RESOLUTION, _OPTION_FILTER, _OPTION_APPLICATION = 2, 9, 11, 4
_FILTER_IS_TEXT: Final = b"\0"
"""First byte of an interface's filter."""
_TAG_DISSECTOR: Final = 12
_BLOCK: Final = struct.Struct("<II")
_PACKET: Final = struct.Struct("<IIIIIII")
"""Type, length, interface, high and low half of the time, captured and original length."""
_NANOSECONDS: Final = 9


def _padding(length: int) -> bytes:
    return b"\0" * (-length % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + _padding(len(value))


def _block(kind: int, content: bytes) -> bytes:
    length = len(content) + 12
    return _BLOCK.pack(kind, length) + content + struct.pack("<I", length)


_TAGS: Final = struct.pack(">HH", _TAG_DISSECTOR, len(DISSECTOR_NAME)) + DISSECTOR_NAME.encode() + bytes(4)
assert len(_TAGS) % 4 == 0


class PcapngWriter:
    """Writes records to a file that need not be seekable. Each call is one write of the file, and a flush."""

    def __init__(self, file: BinaryIO, software: str = "ihsm") -> None:
        """Begin a section; errors of writing are those of the file."""
        self._file = file
        self._interfaces = 0
        options = _option(_OPTION_APPLICATION, software.encode()) + _option(0, b"")
        section = struct.pack("<IHHq", BYTE_ORDER_MAGIC, 1, 0, -1)
        self._write([_block(SECTION, section + options)])

    def add_interface(self, name: str, chosen: str = "") -> int:
        """Describe the next interface, a function of a device; its number.

        `chosen` says which of its records are written, empty for all.
        """
        options = (
            _option(_OPTION_NAME, name.encode("utf-8", "surrogateescape"))
            + _option(_OPTION_RESOLUTION, bytes([_NANOSECONDS]))
            + (_option(_OPTION_FILTER, _FILTER_IS_TEXT + chosen.encode()) if chosen else b"")
            + _option(0, b"")
        )
        self._write([_block(INTERFACE, struct.pack("<HHI", LINKTYPE_EXPORTED_PDU, 0, 0) + options)])
        self._interfaces += 1
        return self._interfaces - 1

    def write(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Write pairs of an interface's number and a record's bytes."""
        self._write([self._packet(interface, record) for interface, record in records])

    @staticmethod
    def _packet(interface: int, record: bytes) -> bytes:
        time_ns, _, _, _ = HEADER.unpack_from(record)
        captured = len(_TAGS) + len(record)
        padding = -captured % 4
        length = _PACKET.size + captured + padding + 4
        head = _PACKET.pack(PACKET, length, interface, time_ns >> 32, time_ns & 0xFFFF_FFFF, captured, captured)
        return b"".join((head, _TAGS, record, b"\0" * padding, length.to_bytes(4, "little")))

    def _write(self, blocks: list[bytes]) -> None:
        self._file.write(b"".join(blocks))
        self._file.flush()


def write_file(file: BinaryIO, records: Iterable[Record], software: str = "ihsm") -> None:
    """Write typed records, one interface a function, in their order.

    Raises:
        TraceError: a record that cannot be encoded.
    """
    writer = PcapngWriter(file, software)
    interfaces: dict[int, int] = {}
    for record in records:
        if record.function not in interfaces:
            interfaces[record.function] = writer.add_interface(f"function {record.function}")
        writer.write([(interfaces[record.function], record.encode())])


@dataclass(frozen=True, slots=True)
class Packet:
    """A record as it is in a file."""

    number: int
    """Of the packet in the file, from 1, as other programs count them."""
    interface: str
    """Name of its interface; where it has none, its number."""
    record: Record
    chosen: str = ""
    """Which records of the interface were written; empty for all."""


@dataclass(frozen=True, slots=True)
class _Interface:
    name: str
    link_type: int
    chosen: str


class _Reader:
    """The blocks of a file, one after the other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._order = "<"
        self._offset = 0
        self._interfaces: list[_Interface] = []
        self._number = 0

    def packets(self) -> Iterator[Packet]:
        first = True
        while (block := self._next_block(first)) is not None:
            kind, content = block
            first = False
            if kind == SECTION:
                self._interfaces = []
            elif kind == INTERFACE:
                self._add_interface(content)
            elif kind == PACKET:
                self._number += 1
                packet = self._packet(content)
                if packet is not None:
                    yield packet

    def _error(self, reason: str) -> TraceError:
        return TraceError(f"byte {self._offset}: {reason}")

    def _read(self, size: int) -> bytes:
        pieces = []
        left = size
        while left > 0 and (piece := self._file.read(left)):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _next_block(self, first: bool) -> tuple[int, bytes] | None:
        """Type and content of the next block; None at the end of the file."""
        head = self._read(8)
        if not head and not first:
            return None
        if first and head[:4] != SECTION.to_bytes(4, "big"):
            raise self._error("no pcapng file")
        if len(head) < 8:
            raise self._cut()
        extra = b""
        if head[:4] == SECTION.to_bytes(4, "big"):  # the same in both byte orders
            extra = self._read(4)
            if len(extra) < 4:
                raise self._cut()
            self._order = self._order_of(extra)
        kind, length = struct.unpack(self._order + "II", head)
        if length < 12 + len(extra) or length % 4 or length > MAX_BLOCK_BYTES:
            raise self._error(f"a block of {length} bytes")
        rest = self._read(length - 8 - len(extra))
        if len(rest) < length - 8 - len(extra):
            raise self._cut()
        if struct.unpack(self._order + "I", rest[-4:])[0] != length:
            raise self._error(f"a block of {length} bytes that ends with another length")
        self._offset += length
        return kind, extra + rest[:-4]

    def _cut(self) -> TraceCutError:
        return TraceCutError(f"byte {self._offset}: the file ends within a block")

    def _order_of(self, magic: bytes) -> str:
        for order in ("<", ">"):
            if struct.unpack(order + "I", magic)[0] == BYTE_ORDER_MAGIC:
                return order
        raise self._error("a section of no known byte order")

    def _add_interface(self, content: bytes) -> None:
        if len(content) < 8:
            raise self._error("an interface's description that is too short")
        if len(self._interfaces) == MAX_INTERFACES:
            raise self._error(f"more than {MAX_INTERFACES} interfaces")
        (link_type,) = struct.unpack_from(self._order + "H", content)
        name, chosen = str(len(self._interfaces)), ""
        for code, value in self._options(content[8:]):
            if code == _OPTION_NAME:
                name = value.decode("utf-8", "surrogateescape").rstrip("\0")
            elif code == _OPTION_FILTER and value[:1] == _FILTER_IS_TEXT:
                chosen = value[1:].decode("utf-8", "backslashreplace")
        self._interfaces.append(_Interface(name, link_type, chosen))

    def _options(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        at = 0
        while at + 4 <= len(data):
            code, length = struct.unpack_from(self._order + "HH", data, at)
            at += 4
            if code == 0:
                return
            if at + length > len(data):
                raise self._error("an option that is longer than its block")
            yield code, data[at : at + length]
            at += length + (-length % 4)

    def _packet(self, content: bytes) -> Packet | None:
        """The record of an enhanced packet; None if it is something else."""
        if len(content) < 20:
            raise self._error("a packet that is too short")
        number, _, _, captured, original = struct.unpack_from(self._order + "IIIII", content)
        if number >= len(self._interfaces):
            raise self._error(f"a packet of interface {number}, which is not described")
        if captured > len(content) - 20:
            raise self._error(f"a packet of {captured} bytes, longer than its block")
        interface = self._interfaces[number]
        if interface.link_type != LINKTYPE_EXPORTED_PDU:
            return None
        record = self._exported(content[20 : 20 + captured])
        if record is None:
            return None
        if captured < original:
            raise self._error(f"packet {self._number}: {captured} of {original} bytes captured")
        try:
            # its own time, which other programs do not change, counts
            return Packet(self._number, interface.name, decode(record), interface.chosen)
        except TraceError as error:
            raise self._error(f"packet {self._number}: {error}") from None

    def _exported(self, data: bytes) -> bytes | None:
        """What follows the tags of an exported PDU, if it is for our dissector."""
        at, name = 0, b""
        while at + 4 <= len(data):
            tag, length = struct.unpack_from(">HH", data, at)
            at += 4
            if tag == 0:
                return data[at:] if name == DISSECTOR_NAME.encode() else None
            if tag == _TAG_DISSECTOR:
                name = data[at : at + length].rstrip(b"\0")
            at += length
        raise self._error(f"packet {self._number}: tags without end")


def read_file(file: BinaryIO) -> Iterator[Packet]:
    """The records of a file, in its order, as they are read; packets that are not for our dissector are passed over.

    Raises:
        TraceCutError: the file ends within a block; all records before it have been given.
        TraceError: it is no pcapng file, or is damaged; likewise.
    """
    return _Reader(file).packets()


assert HEADER_BYTES + MAX_BODY_BYTES == MAX_RECORD_BYTES < MAX_BLOCK_BYTES
