# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""IDE_KM: keys of the link's streams (PCI Express Base 6.x 6.33.3, spec 06 §2.3).

There is no link here, so nothing is encrypted with a key, and none is kept: the key store withholds it from everybody
(`trust.withheld`). What is known is which keys there are, and which of them are in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from ihsm_abi import ide_km
from ihsm_abi.ide_km import IdeKmObject, KeyProg, KeySet, KeySubStream, KpAck, KpAckStatus, Query, QueryResp, SubStream
from ihsm_abi.spdm.codes import ErrorCode
from ihsm_abi.spdm.layout import Reader, SpdmFormatError
from ihsm_abi.tdisp import FunctionId
from ihsm_device.tdi import DeviceInterface
from ihsm_device.trust.errors import RefusedError, invalid
from ihsm_device.trust.interface_id import InterfaceId

STREAMS: Final = 2
"""Ids of streams that keys can be kept for: a link stream's and a selective one's."""
_KNOWN_BITS: Final = KeySubStream.of(key_set=1, transmit=1, sub_stream=0xF)
_BYTE_BITS: Final = 8


class _Slot(NamedTuple):
    """Where a key goes."""

    key_set: int
    transmit: int
    sub_stream: int

    @classmethod
    def of(cls, key_sub_stream: int) -> _Slot | None:
        """None: there is no such place."""
        word = KeySubStream(key_sub_stream)
        if key_sub_stream & ~_KNOWN_BITS or word.sub_stream not in set(SubStream):
            return None
        return cls(word.key_set, word.transmit, word.sub_stream)


class IdeKm:
    """Key management of one function's streams."""

    def __init__(self, interface: DeviceInterface, interface_id: InterfaceId) -> None:
        """No keys yet."""
        self._interface = interface
        self._id = interface_id
        self._keys: dict[int, dict[_Slot, bool]] = {}
        """Of each stream; the value says whether a key is in use."""

    def answer(self, payload: bytes, session_id: int | None) -> bytes:
        """The object that answers one.

        Raises:
            RefusedError: outside of a session, or what has no answer of its own.
        """
        if session_id is None:
            raise RefusedError(ErrorCode.SESSION_REQUIRED)
        if payload[:1] == bytes([IdeKmObject.KEY_PROG]):
            return self._program(payload)
        match ide_km.decode(payload):
            case Query() as query:
                return self._registers(query)
            case KeySet(object_id=IdeKmObject.K_SET_GO) as asked:
                self._go(asked)
            case KeySet(object_id=IdeKmObject.K_SET_STOP) as asked:
                self._stop(asked)
            case _:
                raise invalid()
        return KeySet(
            object_id=IdeKmObject.K_GOSTOP_ACK,
            stream=asked.stream,
            key_sub_stream=asked.key_sub_stream,
            port=asked.port,
        ).encode()

    def session_ended(self) -> None:
        """Nobody relies on the streams any more, nor on what was behind them."""
        self._interface.tear_down()
        for stream in list(self._keys):
            self._forget(stream)

    def _registers(self, query: Query) -> bytes:
        if query.port != ide_km.PORT:
            raise invalid()
        known = self._id.known or FunctionId(0)
        bus, device_function = divmod(known.requester_id, 1 << _BYTE_BITS)
        answer = QueryResp(
            port=query.port,
            device_function=device_function,
            bus=bus,
            segment=known.segment,
            last_port=ide_km.PORT,
        )
        return answer.encode() + b"".join(word.to_bytes(4, "little") for word in self._interface.registers.ide)

    def _program(self, payload: bytes) -> bytes:
        """KEY_PROG, whose key is zeros here; what is wrong with it is told by the status."""
        head = KeySet.read(Reader(payload))
        status = KpAckStatus.SUCCESS
        try:
            asked = ide_km.decode(payload)
        except SpdmFormatError:
            status = KpAckStatus.INCORRECT_LENGTH
        else:
            assert isinstance(asked, KeyProg)
            status = self._take(asked)
        return KpAck(stream=head.stream, status=status, key_sub_stream=head.key_sub_stream, port=head.port).encode()

    def _take(self, asked: KeyProg) -> KpAckStatus:
        if asked.port != ide_km.PORT:
            return KpAckStatus.UNSUPPORTED_PORT
        slot = _Slot.of(asked.key_sub_stream)
        if slot is None or asked.iv != ide_km.IV_START or not self._make_room(asked.stream):
            return KpAckStatus.UNSUPPORTED_VALUE
        self._keys.setdefault(asked.stream, {})[slot] = False
        self._tell(asked.stream)
        return KpAckStatus.SUCCESS

    def _make_room(self, stream: int) -> bool:
        """Whether a stream may have keys: one that a register names or, while none names any, one of the first.

        Requesters write the registers before the keys, or behind them. What room there is goes to those that are named.
        """
        named = self._interface.registers.named_streams
        if named and stream not in named:
            return False
        if stream not in self._keys and len(self._keys) == STREAMS:
            if not named:
                return False
            self._forget(next(each for each in self._keys if each not in named))
        return True

    def _go(self, asked: KeySet) -> None:
        keys, slot = self._keys.get(asked.stream, {}), _Slot.of(asked.key_sub_stream)
        if asked.port != ide_km.PORT or slot is None or slot not in keys:
            raise invalid()
        keys[slot] = True
        self._tell(asked.stream)

    def _stop(self, asked: KeySet) -> None:
        """Whatever stream and sub-stream it names: all keys of a set and direction (spec 06 §2.3)."""
        if asked.port != ide_km.PORT:
            raise invalid()
        word = KeySubStream(asked.key_sub_stream)
        self._interface.tear_down()
        for stream, keys in list(self._keys.items()):
            for slot in list(keys):
                if (slot.key_set, slot.transmit) == (word.key_set, word.transmit):
                    del keys[slot]
            if keys:
                self._tell(stream)
            else:
                self._forget(stream)

    def _forget(self, stream: int) -> None:
        del self._keys[stream]
        self._interface.key(stream, keyed=False)

    def _tell(self, stream: int) -> None:
        """Whether a whole set of keys is in use."""
        keys = self._keys[stream]
        keyed = any(all(keys.get(slot) for slot in _slots(key_set)) for key_set in range(ide_km.KEY_SETS))
        self._interface.key(stream, keyed=keyed)


def _slots(key_set: int) -> Iterator[_Slot]:
    for transmit in range(ide_km.DIRECTIONS):
        for sub_stream in SubStream:
            yield _Slot(key_set, transmit, sub_stream)
