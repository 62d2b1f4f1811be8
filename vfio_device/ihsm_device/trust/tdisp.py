# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""TDISP 1.0: a function's interface locked, reported, started and stopped (PCIe 6.x chapter 11, spec 06 §2.4)."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from ihsm_abi import tdisp
from ihsm_abi.spdm.codes import ErrorCode
from ihsm_abi.spdm.layout import Layout, Reader, SpdmFormatError
from ihsm_abi.tdisp import InterfaceState, LockFlags, TdispError, TdispMessage
from ihsm_device.tdi import HELD, DeviceInterface, InterfaceStateError, NoSecureStreamError
from ihsm_device.trust.errors import RefusedError
from ihsm_device.trust.interface_id import InterfaceId
from ihsm_device.trust.report import interface_report

LOCK_FLAGS: Final = LockFlags.NO_FW_UPDATE | LockFlags.SYSTEM_CACHE_LINE_SIZE | LockFlags.LOCK_MSIX
_ANSWER_MASK: Final = 0x7F
_FIRST_REQUEST: Final = 0x80


class _TdispRefusedError(Exception):
    """The request gets TDISP's ERROR."""

    def __init__(self, code: TdispError, data: int = 0) -> None:
        super().__init__(code.name)
        self.code, self.data = code, data


class _Empty(Layout):
    """A message that is its header alone."""


class _Rule(NamedTuple):
    """What follows a request's header, and who answers it with what follows that of the answer."""

    body: type[Layout]
    answer: Callable[[Tdisp, Any], Layout]


class Tdisp:
    """The interface of one function."""

    def __init__(
        self,
        interface: DeviceInterface,
        interface_id: InterfaceId,
        random: Callable[[int], bytes],
        *,
        whole_addresses: bool = True,
    ) -> None:
        """`random` makes nonces; without `whole_addresses` reports lack bits of addresses, as firmware's do."""
        self._interface = interface
        self._id = interface_id
        self._random = random
        self._whole_addresses = whole_addresses
        self._nonce = b""
        """Of the last LOCK; empty if it has been used."""
        self._report = b""

    def answer(self, payload: bytes, session_id: int | None) -> bytes:
        """The message that answers one.

        Raises:
            RefusedError: outside of a session.
            SpdmFormatError: it has no whole header.
        """
        if session_id is None:
            raise RefusedError(ErrorCode.SESSION_REQUIRED)
        reader = Reader(payload)
        header = tdisp.Header.read(reader)
        try:
            rule = self._admitted(header)
            kind, body = header.type & _ANSWER_MASK, rule.answer(self, _body(rule.body, reader))
        except InterfaceStateError:
            kind, body = TdispMessage.ERROR, tdisp.ErrorAnswer(code=TdispError.INVALID_INTERFACE_STATE)
        except _TdispRefusedError as error:
            kind, body = TdispMessage.ERROR, tdisp.ErrorAnswer(code=error.code, data=error.data)
        return tdisp.Header(type=kind, function_id=header.function_id).encode() + body.encode()

    def session_ended(self) -> None:
        """Nobody relies on the interface any more."""
        self._interface.tear_down()
        self._id.forget()
        self._nonce = self._report = b""

    def _admitted(self, header: tdisp.Header) -> _Rule:
        if header.version != tdisp.VERSION_1_0:
            raise _TdispRefusedError(TdispError.VERSION_MISMATCH)
        rule = _RULES.get(header.type)
        if rule is None:
            raise _TdispRefusedError(TdispError.UNSUPPORTED_REQUEST, header.type)
        if not self._id.admits(header.function_id):
            raise _TdispRefusedError(TdispError.INVALID_INTERFACE)
        return rule

    def _version(self, _asked: Layout) -> Layout:
        return tdisp.VersionAnswer(versions=(tdisp.VERSION_1_0,))

    def _capabilities(self, _asked: tdisp.CapabilitiesRequest) -> Layout:
        supported = sum(1 << (code - _FIRST_REQUEST) for code in _RULES)
        return tdisp.CapabilitiesAnswer(
            dsm_caps=0,
            requests=supported.to_bytes(16, "little"),
            lock_flags=LOCK_FLAGS,
            address_width=tdisp.ADDRESS_WIDTH,
            requests_this=1,
            requests_all=1,
        )

    def _lock(self, asked: tdisp.LockRequest) -> Layout:
        if asked.flags & ~int(LOCK_FLAGS):
            raise _TdispRefusedError(TdispError.INVALID_REQUEST)
        try:
            registers = self._interface.lock(asked.default_stream)
        except NoSecureStreamError:
            raise _TdispRefusedError(TdispError.INVALID_REQUEST) from None
        self._nonce = self._random(tdisp.NONCE_BYTES)
        self._report = interface_report(
            registers,
            asked.mmio_reporting_offset,
            no_update=bool(asked.flags & LockFlags.NO_FW_UPDATE),
            whole_addresses=self._whole_addresses,
        )
        return tdisp.Nonce(nonce=self._nonce)

    def _give_report(self, asked: tdisp.ReportRequest) -> Layout:
        self._require(HELD)
        if asked.offset >= len(self._report) or not asked.length:
            raise _TdispRefusedError(TdispError.INVALID_REQUEST)
        portion = self._report[asked.offset : asked.offset + asked.length]
        remainder = len(self._report) - asked.offset - len(portion)
        return tdisp.ReportAnswer(portion_length=len(portion), remainder_length=remainder, portion=portion)

    def _state(self, _asked: Layout) -> Layout:
        return tdisp.StateAnswer(state=self._interface.state)

    def _start(self, asked: tdisp.Nonce) -> Layout:
        self._require(frozenset({InterfaceState.CONFIG_LOCKED}))
        if not hmac.compare_digest(self._nonce, asked.nonce):
            raise _TdispRefusedError(TdispError.INVALID_NONCE)
        self._interface.start()
        self._nonce = b""
        return _Empty()

    def _stop(self, _asked: Layout) -> Layout:
        self._interface.stop()
        self._nonce = self._report = b""
        return _Empty()

    def _require(self, states: frozenset[InterfaceState]) -> None:
        if self._interface.state not in states:
            raise InterfaceStateError


_RULES: Final[Mapping[int, _Rule]] = {
    TdispMessage.GET_VERSION: _Rule(_Empty, Tdisp._version),
    TdispMessage.GET_CAPABILITIES: _Rule(tdisp.CapabilitiesRequest, Tdisp._capabilities),
    TdispMessage.LOCK_INTERFACE: _Rule(tdisp.LockRequest, Tdisp._lock),
    TdispMessage.GET_DEVICE_INTERFACE_REPORT: _Rule(tdisp.ReportRequest, Tdisp._give_report),
    TdispMessage.GET_DEVICE_INTERFACE_STATE: _Rule(_Empty, Tdisp._state),
    TdispMessage.START_INTERFACE: _Rule(tdisp.Nonce, Tdisp._start),
    TdispMessage.STOP_INTERFACE: _Rule(_Empty, Tdisp._stop),
}
"""Every other request is not supported (spec 06 §2.4)."""


def _body(layout: type[Layout], reader: Reader) -> Layout:
    """What follows a header, and nothing else."""
    try:
        body = layout.read(reader)
        reader.end()
    except SpdmFormatError:
        raise _TdispRefusedError(TdispError.INVALID_REQUEST) from None
    return body
