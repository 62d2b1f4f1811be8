# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""TDISP 1.0 inside a secured session (PCI Express Base 6.x chapter 11, spec 06 §2.4): its messages.

They are what follows the number of the protocol in vendor-defined messages of PCI-SIG.
"""

import re
from enum import IntEnum, IntFlag
from typing import Final, Self

from ihsm_abi.bits import Bits, Word
from ihsm_abi.spdm.layout import Layout, counted, fixed, number, numbers, sized

PROTOCOL: Final = 1
VERSION_1_0: Final = 0x10
NONCE_BYTES: Final = 32
PAGE_BYTES: Final = 4096
ADDRESS_WIDTH: Final = 64


class TdispMessage(IntEnum):
    """Requests, the codes of whose answers are theirs without the highest bit; ERROR."""

    GET_VERSION = 0x81
    GET_CAPABILITIES = 0x82
    LOCK_INTERFACE = 0x83
    GET_DEVICE_INTERFACE_REPORT = 0x84
    GET_DEVICE_INTERFACE_STATE = 0x85
    START_INTERFACE = 0x86
    STOP_INTERFACE = 0x87
    BIND_P2P_STREAM = 0x88
    UNBIND_P2P_STREAM = 0x89
    SET_MMIO_ATTRIBUTE = 0x8A
    VDM = 0x8B
    ERROR = 0x7F


class TdispError(IntEnum):
    """Code of ERROR."""

    INVALID_REQUEST = 0x0001
    BUSY = 0x0003
    INVALID_INTERFACE_STATE = 0x0004
    UNSPECIFIED = 0x0005
    UNSUPPORTED_REQUEST = 0x0007
    VERSION_MISMATCH = 0x0041
    VENDOR_SPECIFIC = 0x00FF
    INVALID_INTERFACE = 0x0101
    INVALID_NONCE = 0x0102
    INSUFFICIENT_ENTROPY = 0x0103
    INVALID_DEVICE_CONFIGURATION = 0x0104


class InterfaceState(IntEnum):
    """State of an interface."""

    CONFIG_UNLOCKED = 0
    CONFIG_LOCKED = 1
    RUN = 2
    ERROR = 3


class LockFlags(IntFlag):
    """Flags of LOCK_INTERFACE."""

    NO_FW_UPDATE = 1
    SYSTEM_CACHE_LINE_SIZE = 2
    LOCK_MSIX = 4
    BIND_P2P = 8
    ALL_REQUEST_REDIRECT = 0x10


class FunctionId(Word):
    """Which function an interface is of."""

    requester_id = Bits(0, 16)
    segment = Bits(16, 8)
    segment_valid = Bits(24)


class RequesterId(Word):
    """Bus, device and function."""

    function = Bits(0, 3)
    device = Bits(3, 5)
    bus = Bits(8, 8)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of `BB:DD.F`, hexadecimal; raises ValueError."""
        found = re.fullmatch(r"([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", text, re.IGNORECASE)
        if found is None:
            raise ValueError(f"{text!r} is no bus, device and function such as 01:00.0")
        bus, device, function = (int(part, 16) for part in found.groups())
        return cls.of(bus=bus, device=device, function=function)

    @property
    def text(self) -> str:
        """As `BB:DD.F`."""
        return f"{self.bus:02x}:{self.device:02x}.{self.function}"


class Header(Layout):
    """With which every message begins."""

    version: int = number(1, default=VERSION_1_0)
    type: int = number(1)
    function_id: int = number(4, reserved=2)
    reserved: int = number(8, default=0)


class VersionAnswer(Layout):
    """Behind the header of TDISP_VERSION."""

    versions: tuple[int, ...] = numbers(1, 1)


class CapabilitiesRequest(Layout):
    """Of GET_TDISP_CAPABILITIES."""

    tsm_caps: int = number(4)


class CapabilitiesAnswer(Layout):
    """Of TDISP_CAPABILITIES."""

    dsm_caps: int = number(4)
    requests: bytes = fixed(16)
    """A bit for each request from 0x80 on."""
    lock_flags: int = number(2)
    address_width: int = number(1, reserved=3)
    requests_this: int = number(1)
    requests_all: int = number(1)


class LockRequest(Layout):
    """Of LOCK_INTERFACE_REQUEST."""

    flags: int = number(2)
    default_stream: int = number(1)
    mmio_reporting_offset: int = number(8, reserved=1)
    bind_p2p_address_mask: int = number(8)


class Nonce(Layout):
    """Of LOCK_INTERFACE_RESPONSE and START_INTERFACE_REQUEST."""

    nonce: bytes = fixed(NONCE_BYTES)


class ReportRequest(Layout):
    """Of GET_DEVICE_INTERFACE_REPORT."""

    offset: int = number(2)
    length: int = number(2)


class ReportAnswer(Layout):
    """Of DEVICE_INTERFACE_REPORT."""

    portion_length: int = number(2)
    remainder_length: int = number(2)
    portion: bytes = sized(lambda values: values["portion_length"])


class StateAnswer(Layout):
    """Of DEVICE_INTERFACE_STATE."""

    state: int = number(1)


class ErrorAnswer(Layout):
    """Of ERROR."""

    code: int = number(4)
    data: int = number(4, default=0)


class InterfaceInfo(IntFlag):
    """First field of a report."""

    NO_FW_UPDATE = 1
    DMA_WITHOUT_PASID = 2


class MmioAttributes(Word):
    """Attributes of a range."""

    msix_table = Bits(0)
    msix_pba = Bits(1)
    non_tee = Bits(2)
    updatable = Bits(3)
    range_id = Bits(16, 16)


class ReportHead(Layout):
    """A report, before its ranges."""

    interface_info: int = number(2)
    msix_message_control: int = number(2, reserved=2)
    lnr_control: int = number(2)
    tph_control: int = number(4)
    range_count: int = number(4)


class MmioRange(Layout):
    """A range of a report."""

    first_page: int = number(8)
    """Its first 4 KiB page, with the offset that LOCK_INTERFACE gave."""
    pages: int = number(4)
    attributes: int = number(4)


class DeviceInfo(Layout):
    """End of a report."""

    info: bytes = counted(4)
