# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A requester of IDE_KM and TDISP, as bytes of the standards (PCIe 6.x 6.33.3, chapter 11), and what it acts on."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from ihsm.bus.function import PciFunction
from ihsm_device import pci
from ihsm_device._native import ffi, lib
from ihsm_device.tdi import DeviceInterface
from support.spdm_requester import ErrorAnswerError

FUNCTION: Final = 0x0108
"""01:01.0"""
STREAM: Final = 5
IV: Final = bytes.fromhex("00000000 01000000")
KEY: Final = bytes(range(0x40, 0x60))
SLOTS: Final = tuple(sub << 4 | tx << 1 for tx in (0, 1) for sub in (0, 1, 2))
"""Keys of the first set: both directions, three sub-streams each."""
UNLOCKED, LOCKED, RUN, ERROR = range(4)
ENABLED: Final = 1
COMMAND, BARS = 0x04, 0x10
LINK_CONTROL, LINK_STATUS = pci.IDE_POSITION + 0x0C, pci.IDE_POSITION + 0x10
SELECTIVE_CONTROL, SELECTIVE_STATUS = pci.IDE_POSITION + 0x18, pci.IDE_POSITION + 0x1C
SECURE: Final = 2
MEMORY_AND_MASTER: Final = 6


def vendor_defined(payload: bytes) -> bytes:
    """A message of SPDM with what begins with the number of one of PCI-SIG's protocols."""
    return bytes.fromhex("12fe0000 0300 02 0100") + struct.pack("<H", len(payload)) + payload


def control(stream: int = STREAM, *, enabled: int = ENABLED, traffic_class: int = 0) -> int:
    """Of a stream."""
    return stream << 24 | traffic_class << 19 | enabled


def key_prog(stream: int = STREAM, slot: int = 0, port: int = 0, key: bytes = KEY, iv: bytes = IV) -> bytes:
    """KEY_PROG."""
    return bytes([2, 0, 0, stream, 0, slot, port]) + key + iv


def key_set(kind: int, stream: int = STREAM, slot: int = 0, port: int = 0) -> bytes:
    """K_SET_GO 4, K_SET_STOP 5, their acknowledgement 6."""
    return bytes([kind, 0, 0, stream, 0, slot, port])


def message(kind: int, body: bytes = b"", function: int = FUNCTION, version: int = 0x10) -> bytes:
    """Of TDISP."""
    return struct.pack("<BBHIQ", version, kind, 0, function, 0) + body


def lock_body(flags: int = 0, stream: int = STREAM, offset: int = 0) -> bytes:
    """Of LOCK_INTERFACE."""
    return struct.pack("<HBBQQ", flags, stream, 0, offset, 0)


OBJECTS_AND_MESSAGES: Final = tuple(
    vendor_defined(payload)
    for payload in (
        b"\0" + bytes(3),
        *(b"\0" + key_prog(slot=slot) for slot in SLOTS),
        *(b"\0" + key_set(4, slot=slot) for slot in SLOTS),
        b"\0" + key_set(5),
        *(b"\1" + message(kind) for kind in (0x81, 0x85, 0x87, 0x88)),
        b"\1" + message(0x82, bytes(4)),
        b"\1" + message(0x83, lock_body()),
        b"\1" + message(0x84, b"\0\0\xff\xff"),
        b"\1" + message(0x86, bytes(32)),
    )
)
"""One of each kind, and of each key of a set."""


class TdispError(AssertionError):
    """The device answered TDISP's ERROR."""

    def __init__(self, code: int, data: int) -> None:
        super().__init__(f"TDISP ERROR {code:#x} {data:#x}")
        self.code, self.data = code, data


class TrustedIo:
    """What a TSM does, over a function that sends a message in a session and gives its answer."""

    def __init__(self, secured: Callable[[bytes], bytes], function: int = FUNCTION) -> None:
        self.secured = secured
        self.function = function
        self.nonce = bytes(32)

    def ask(self, payload: bytes) -> bytes:
        """Payload of a message, and of its answer; raises ErrorAnswerError."""
        answer = self.secured(vendor_defined(payload))
        if answer[1] == 0x7F:
            raise ErrorAnswerError(answer[0], answer[2], answer[3])
        assert answer[:9] == bytes.fromhex("127e0000 0300 02 0100")
        (size,) = struct.unpack_from("<H", answer, 9)
        assert len(answer) == 11 + size
        return answer[11:]

    def ide(self, request: bytes) -> bytes:
        """Of IDE_KM."""
        answer = self.ask(b"\0" + request)
        assert answer[0] == 0
        return answer[1:]

    def tdisp(self, kind: int, body: bytes = b"") -> bytes:
        """Of TDISP: what follows the header of the answer; raises TdispError."""
        return self.raw(message(kind, body, self.function))

    def raw(self, request: bytes) -> bytes:
        """A message of TDISP, whatever it is."""
        answer = self.ask(b"\1" + request)
        version, kind, reserved, function, more = struct.unpack_from("<BBHIQ", answer, 1)
        assert (answer[0], version, reserved, more) == (1, 0x10, 0, 0)
        assert function == struct.unpack_from("<I", request, 4)[0]
        if kind == 0x7F:
            raise TdispError(*struct.unpack("<II", answer[17:]))
        assert kind == request[1] & 0x7F
        return answer[17:]

    def set_keys(self, stream: int = STREAM, key_set_number: int = 0) -> None:
        """A whole set, in use."""
        for slot in SLOTS:
            answer = self.ide(key_prog(stream, slot | key_set_number))
            assert answer == bytes([3, 0, 0, stream, 0, slot | key_set_number, 0])
        for slot in SLOTS:
            assert self.ide(key_set(4, stream, slot | key_set_number)) == key_set(6, stream, slot | key_set_number)

    def lock(self, flags: int = 0, stream: int = STREAM, offset: int = 0) -> bytes:
        """LOCK_INTERFACE; the nonce."""
        self.nonce = self.tdisp(0x83, lock_body(flags, stream, offset))
        assert len(self.nonce) == 32
        return self.nonce

    def start(self, nonce: bytes | None = None) -> None:
        """START_INTERFACE."""
        assert self.tdisp(0x86, self.nonce if nonce is None else nonce) == b""

    def stop(self) -> None:
        """STOP_INTERFACE."""
        assert self.tdisp(0x87) == b""

    @property
    def state(self) -> int:
        """GET_DEVICE_INTERFACE_STATE."""
        return self.tdisp(0x85)[0]

    def report(self) -> bytes:
        """GET_DEVICE_INTERFACE_REPORT, in portions."""
        report, left = b"", 1
        while left:
            answer = self.tdisp(0x84, struct.pack("<HH", len(report), 30))
            size, left = struct.unpack_from("<HH", answer)
            assert len(answer) == 4 + size
            report += answer[4:]
        return report


class Config:
    """Registers of configuration space as an interface sees them, without a configuration space."""

    def __init__(self, interface: DeviceInterface) -> None:
        self.interface = interface
        self.registers = ffi.new("struct ihsm_tdi_registers *")

    def follow(self) -> bool:
        """Let it see them."""
        return bool(lib.ihsm_tdi_follow(self.interface.handle, self.registers))

    def reset(self, *, lost: bool = False) -> None:
        """A reset of the function, or the loss of its client."""
        self.registers = ffi.new("struct ihsm_tdi_registers *")
        lib.ihsm_tdi_reset(self.interface.handle, self.registers, lost)

    def controls(self, link: int = 0, selective: int = 0) -> None:
        """Of the two streams."""
        self.registers.ide[2], self.registers.ide[5] = link, selective
        self.follow()


def write32(function: PciFunction, offset: int, value: int) -> None:
    """A register of configuration space."""
    function.write_config(offset, value.to_bytes(4, "little"))


def read32(function: PciFunction, offset: int) -> int:
    """A register of configuration space."""
    return int.from_bytes(function.read_config(offset, 4), "little")
