# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a function says of itself in config space: ids and capability lists (PCI Local Bus 3.0, PCI Express Base)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Final, Protocol

from ihsm.errors import ProtocolError

STANDARD_HEADER: Final = Struct("<HHHHBBH")
"""Vendor, device, command, status, revision, programming interface, class and sub-class."""
SUBSYSTEM_OFFSET: Final = 0x2C
STATUS_OFFSET: Final = 0x06
STATUS_CAPABILITIES: Final = 1 << 4
CAPABILITIES_POINTER: Final = 0x34
EXTENDED_START: Final = 0x100
CONVENTIONAL_BYTES: Final = 256
MAX_CAPABILITIES: Final = 48
MAX_EXTENDED: Final = 480
SERIAL_NUMBER_ID: Final = 0x0003

NAMES: Final = {0x01: "power management", 0x05: "MSI", 0x09: "vendor specific", 0x10: "PCI Express", 0x11: "MSI-X"}
EXTENDED_NAMES: Final = {
    0x0001: "AER",
    0x0003: "device serial number",
    0x000B: "vendor specific",
    0x0010: "SR-IOV",
    0x002E: "data object exchange",
    0x0030: "integrity and data encryption",
}


class ConfigAccess(Protocol):
    """Whatever reaches a function's configuration space: a `PciFunction`, or a file of sysfs (`SysfsConfig`)."""

    uri: str

    @property
    def config_bytes(self) -> int:
        """Size of config space: 256 or 4096."""

    def read_config(self, offset: int, size_bytes: int) -> bytes:
        """Bytes of config space, any offset and size within it."""

    def write_config(self, offset: int, data: bytes) -> None:
        """Write bytes of config space."""


@dataclass(frozen=True, slots=True)
class CapabilityEntry:
    """One capability; `extended` ones lie from 0x100 on."""

    id: int
    offset: int
    extended: bool

    @property
    def name(self) -> str:
        """What the id stands for."""
        return (EXTENDED_NAMES if self.extended else NAMES).get(self.id, f"id {self.id:#x}")


@dataclass(frozen=True, slots=True)
class PciIds:
    """Identity of a function."""

    vendor: int
    device: int
    subsystem_vendor: int
    subsystem: int
    class_code: int
    """24 bits: base class, sub-class, programming interface."""
    revision: int


def read_ids(function: ConfigAccess) -> PciIds:
    """Decode the standard header."""
    vendor, device, _, _, revision, interface, kind = STANDARD_HEADER.unpack(
        function.read_config(0, STANDARD_HEADER.size)
    )
    subsystem_vendor, subsystem = Struct("<HH").unpack(function.read_config(SUBSYSTEM_OFFSET, 4))
    return PciIds(vendor, device, subsystem_vendor, subsystem, kind << 8 | interface, revision)


def capabilities(function: ConfigAccess) -> list[CapabilityEntry]:
    """Both capability lists, in their order.

    Raises:
        ProtocolError: a list does not end.
    """
    return [*_conventional(function), *_extended(function)]


def _conventional(function: ConfigAccess) -> Iterator[CapabilityEntry]:
    if not int.from_bytes(function.read_config(STATUS_OFFSET, 2), "little") & STATUS_CAPABILITIES:
        return
    offset = function.read_config(CAPABILITIES_POINTER, 1)[0] & ~3
    for _ in range(MAX_CAPABILITIES):
        if not offset:
            return
        identifier, following = function.read_config(offset, 2)
        yield CapabilityEntry(identifier, offset, extended=False)
        offset = following & ~3
    raise ProtocolError(f"{function.uri}: the capability list does not end after {MAX_CAPABILITIES} entries")


def _extended(function: ConfigAccess) -> Iterator[CapabilityEntry]:
    offset = EXTENDED_START if function.config_bytes > CONVENTIONAL_BYTES else 0
    for _ in range(MAX_EXTENDED):
        if not offset or offset > function.config_bytes - 4:
            return
        header = int.from_bytes(function.read_config(offset, 4), "little")
        if header in (0, 0xFFFF_FFFF):
            return
        yield CapabilityEntry(header & 0xFFFF, offset, extended=True)
        offset = header >> 20 & ~3
    raise ProtocolError(f"{function.uri}: the extended capability list does not end after {MAX_EXTENDED} entries")


def serial_number(function: ConfigAccess) -> int | None:
    """64-bit device serial number, None without that capability."""
    offset = extended_capability(function, SERIAL_NUMBER_ID)
    return None if offset is None else int.from_bytes(function.read_config(offset + 4, 8), "little")


def extended_capability(function: ConfigAccess, identifier: int) -> int | None:
    """Offset of the first extended capability of that id, None without one."""
    return next((entry.offset for entry in _extended(function) if entry.id == identifier), None)
