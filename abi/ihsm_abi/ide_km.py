# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Key management of IDE inside a secured session (PCI Express Base 6.x 6.33.3, spec 06 §2.3): its objects.

They are what follows the number of the protocol in vendor-defined messages of PCI-SIG.
"""

from enum import IntEnum
from typing import Final

from ihsm_abi.bits import Bits, Word
from ihsm_abi.spdm.layout import Layout, Reader, fixed, number

PROTOCOL: Final = 0
PORT: Final = 0
"""Index of the only port."""
KEY_BYTES: Final = 32
KEY_OFFSET: Final = 7
"""Of the key in KEY_PROG."""
IV_BYTES: Final = 8
IV_START: Final = (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
"""The two words that every IV must be."""


class IdeKmObject(IntEnum):
    """First byte of an object."""

    QUERY = 0
    QUERY_RESP = 1
    KEY_PROG = 2
    KP_ACK = 3
    K_SET_GO = 4
    K_SET_STOP = 5
    K_GOSTOP_ACK = 6


class KpAckStatus(IntEnum):
    """What became of a key."""

    SUCCESS = 0
    INCORRECT_LENGTH = 1
    UNSUPPORTED_PORT = 2
    UNSUPPORTED_VALUE = 3
    UNSPECIFIED = 4


KEY_SETS: Final = 2
DIRECTIONS: Final = 2


class SubStream(IntEnum):
    """Transactions that have a key of their own."""

    POSTED = 0
    NON_POSTED = 1
    COMPLETION = 2


class KeySubStream(Word):
    """Which key an object is about."""

    key_set = Bits(0)
    transmit = Bits(1)
    sub_stream = Bits(4, 4)


class Query(Layout):
    """QUERY: the registers of a port."""

    object_id: int = number(1, default=IdeKmObject.QUERY)
    port: int = number(1, reserved=1)


class QueryResp(Layout):
    """QUERY_RESP, before the registers of the IDE capability (spec 06 §2.5 has their order)."""

    object_id: int = number(1, default=IdeKmObject.QUERY_RESP)
    port: int = number(1, reserved=1)
    device_function: int = number(1)
    bus: int = number(1)
    segment: int = number(1)
    last_port: int = number(1)


class KeyProg(Layout):
    """KEY_PROG: a key for one sub-stream of one key set and direction."""

    object_id: int = number(1, default=IdeKmObject.KEY_PROG)
    stream: int = number(1, reserved=2)
    key_sub_stream: int = number(1, reserved=1)
    port: int = number(1)
    key: bytes = fixed(KEY_BYTES)
    iv: bytes = fixed(IV_BYTES)


class KpAck(Layout):
    """KP_ACK."""

    object_id: int = number(1, default=IdeKmObject.KP_ACK)
    stream: int = number(1, reserved=2)
    status: int = number(1)
    key_sub_stream: int = number(1)
    port: int = number(1)


class KeySet(Layout):
    """K_SET_GO, K_SET_STOP, and the K_GOSTOP_ACK of both."""

    object_id: int = number(1)
    stream: int = number(1, reserved=2)
    key_sub_stream: int = number(1, reserved=1)
    port: int = number(1)


_LAYOUTS: Final[dict[int, type[Layout]]] = {
    IdeKmObject.QUERY: Query,
    IdeKmObject.KEY_PROG: KeyProg,
    IdeKmObject.KP_ACK: KpAck,
    IdeKmObject.K_SET_GO: KeySet,
    IdeKmObject.K_SET_STOP: KeySet,
    IdeKmObject.K_GOSTOP_ACK: KeySet,
}


def decode(data: bytes) -> Layout | None:
    """The object, which ends with the bytes; None for an id that has none, and for QUERY_RESP, whose length varies.

    Raises:
        SpdmFormatError: another length.
    """
    layout = _LAYOUTS.get(data[0]) if data else None
    if layout is None:
        return None
    reader = Reader(data)
    found = layout.read(reader)
    reader.end()
    return found
