# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Data Object Exchange: the mailbox's registers, objects and discovery (PCI Express Base 6.x 6.30 and 7.9.24)."""

from dataclasses import dataclass
from struct import Struct
from typing import Final, Self

from ihsm_abi.bits import Bits, Word

DOE_VERSION: Final = 1
"""Of the extended capability: without attention and asynchronous messages."""
DOE_CAPABILITIES_OFFSET: Final = 0x04
DOE_CONTROL_OFFSET: Final = 0x08
DOE_STATUS_OFFSET: Final = 0x0C
DOE_WRITE_MAILBOX_OFFSET: Final = 0x10
DOE_READ_MAILBOX_OFFSET: Final = 0x14
DOE_BYTES: Final = 0x18
"""Of the whole capability with its header."""
DOE_DWORD_BYTES: Final = 4
"""Of a data register, and the one width of an access to the mailbox."""


class DoeCapabilities(Word):
    """DOE Capabilities register."""

    interrupt_support = Bits(0)
    interrupt_message_number = Bits(1, 11)


class DoeControl(Word):
    """DOE Control register; abort and go read 0."""

    abort = Bits(0)
    interrupt_enable = Bits(1)
    go = Bits(31)


class DoeStatus(Word):
    """DOE Status register."""

    busy = Bits(0)
    interrupt_status = Bits(1)
    error = Bits(2)
    object_ready = Bits(31)


class ObjectKind(Word):
    """First dword of an object's header."""

    vendor = Bits(0, 16)
    type = Bits(16, 8)


class ObjectLength(Word):
    """Second dword of an object's header: dwords of the whole object; 0 stands for 2^18."""

    dwords = Bits(0, 18)


OBJECT_HEADER: Final = Struct("<II")
OBJECT_MIN_DWORDS: Final = 3
OBJECT_MAX_DWORDS: Final = 1024
"""Objects of this device have at most 4096 bytes (spec 06 §2.2)."""
OBJECT_MIN_BYTES: Final = OBJECT_MIN_DWORDS * DOE_DWORD_BYTES
OBJECT_MAX_BYTES: Final = OBJECT_MAX_DWORDS * DOE_DWORD_BYTES
PAYLOAD_MAX_BYTES: Final = OBJECT_MAX_BYTES - OBJECT_HEADER.size

PCI_SIG: Final = 0x0001
"""Vendor id of the objects that the standard defines."""
NO_VENDOR: Final = 0xFFFF
"""Vendor id that discovery answers for an index behind the last."""
OBJECT_DISCOVERY: Final = 0
OBJECT_SPDM: Final = 1
OBJECT_SECURED_SPDM: Final = 2
OBJECT_TYPES: Final = (OBJECT_DISCOVERY, OBJECT_SPDM, OBJECT_SECURED_SPDM)
"""Types of vendor 0x0001 that the mailbox takes, by index of discovery (spec 06 §2.2)."""


class DoeFormatError(ValueError):
    """Bytes that are no data object."""


@dataclass(frozen=True, slots=True)
class DataObject:
    """What is exchanged through a mailbox: whole dwords."""

    vendor: int
    type: int
    payload: bytes
    """Of a decoded object with the bytes that fill up its last dword."""

    def encode(self) -> bytes:
        """The object as it is written, its last dword filled up with zeros.

        Raises:
            DoeFormatError: there is no payload, or too much for a mailbox of this device.
        """
        if not 0 < len(self.payload) <= PAYLOAD_MAX_BYTES:
            raise DoeFormatError(f"payload of {len(self.payload)} bytes, 1 to {PAYLOAD_MAX_BYTES} fit an object")
        padding = bytes(-len(self.payload) % DOE_DWORD_BYTES)
        dwords = (OBJECT_HEADER.size + len(self.payload) + len(padding)) // DOE_DWORD_BYTES
        kind = ObjectKind.of(vendor=self.vendor, type=self.type)
        return OBJECT_HEADER.pack(kind, ObjectLength.of(dwords=dwords)) + self.payload + padding

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The object that `data` is.

        Raises:
            DoeFormatError: it has another length than its header says, or none that an object can have.
        """
        if len(data) < OBJECT_HEADER.size:
            raise DoeFormatError(f"{len(data)} bytes, an object has a header of {OBJECT_HEADER.size}")
        kind, length = OBJECT_HEADER.unpack_from(data)
        expected = ObjectLength(length).dwords * DOE_DWORD_BYTES
        if len(data) != expected or not OBJECT_MIN_BYTES <= expected <= OBJECT_MAX_BYTES:
            raise DoeFormatError(f"{len(data)} bytes of an object whose header says {expected}")
        word = ObjectKind(kind)
        return cls(word.vendor, word.type, data[OBJECT_HEADER.size :])


class DiscoveryRequest(Word):
    """The one dword of a discovery request."""

    index = Bits(0, 8)


class DiscoveryAnswer(Word):
    """The one dword of a discovery response: an object's kind, and the index of the next, 0 after the last."""

    vendor = Bits(0, 16)
    type = Bits(16, 8)
    next_index = Bits(24, 8)
