# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a function's control socket does with traces: hands their records to readers, and takes marks.

Everything runs on the thread of the control sockets. While there are readers it empties the function's ring some
hundred times a second, which costs those who write into the ring nothing, and sends what it finds to every reader.
Nobody waits for a reader: what one does not take in time is left out for it, and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ihsm_abi.control import (
    MAX_MARK_CHARACTERS,
    MAX_TRACE_READERS,
    ControlCommand,
    ControlErrorCode,
    ControlRefusal,
)
from ihsm_abi.fault_words import to_text
from ihsm_abi.faults import StandingFault
from ihsm_abi.trace import ALL_KINDS, FORMAT_VERSION, KIND_NAMES, TraceKind
from ihsm_device.control_socket import Handler, Result, StreamResult
from ihsm_device.trace import NoTracesError, Trace

PERIOD_S: Final = 0.005
"""Pause after which the ring is emptied again; it holds the records of several times that."""
MUCH_BYTES: Final = 512 * 1024
"""So much at once, and the ring is emptied again without a pause."""
MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""What waits for a reader; beyond it records are left out."""
ALWAYS: Final = 1 << TraceKind.LOST


class TraceCommands:
    """The commands `trace.*` of one function."""

    def __init__(self, trace: Trace, standing: Callable[[], Sequence[StandingFault]], socket_path: str) -> None:
        """`standing` gives the function's faults."""
        self._trace = trace
        self._standing = standing
        self._socket_path = socket_path
        self._readers: set[_Reader] = set()
        self._pump: asyncio.Task[None] | None = None

    @property
    def handlers(self) -> Mapping[str, Handler]:
        """By command."""
        return {ControlCommand.TRACE_START: self._start, ControlCommand.TRACE_MARK: self._mark}

    def _mark(self, arguments: dict[str, Any]) -> Result:
        _require_only(arguments, "text")
        text = arguments.get("text")
        if not isinstance(text, str) or not 1 <= len(text) <= MAX_MARK_CHARACTERS:
            raise ValueError(f"text: 1 to {MAX_MARK_CHARACTERS} characters are required")
        return {"recorded": self._trace.mark(text)}

    def _start(self, arguments: dict[str, Any]) -> Result:
        _require_only(arguments, "kinds")
        kinds = _kinds(arguments.get("kinds"))
        if len(self._readers) >= MAX_TRACE_READERS:
            text = f"the function's trace has {MAX_TRACE_READERS} readers already"
            raise ControlRefusal(ControlErrorCode.TOO_MANY_READERS, text)
        try:
            self._trace.prepare()
        except NoTracesError as error:
            raise ControlRefusal(ControlErrorCode.NO_TRACES, str(error)) from None
        return StreamResult(
            {"version": FORMAT_VERSION, "socket": self._socket_path}, lambda transport: self._serve(transport, kinds)
        )

    async def _serve(self, transport: asyncio.WriteTransport, kinds: int) -> None:
        """One reader, from its first record to its end, which cancels this."""
        if not self._readers:
            self._discard()
        reader = _Reader(transport, kinds, self._trace)
        self._readers.add(reader)
        self._select()
        try:
            faults = [(standing.number, to_text(standing.fault)) for standing in self._standing()]
            transport.write(self._trace.beginning(faults))
            if self._pump is None:
                self._pump = asyncio.get_running_loop().create_task(self._empty())
            await asyncio.get_running_loop().create_future()
        finally:
            self._readers.discard(reader)
            self._select()

    def _select(self) -> None:
        """Record what any reader wants."""
        kinds = 0
        for reader in self._readers:
            kinds |= reader.kinds
        self._trace.select(kinds)

    def _discard(self) -> None:
        """What the last reader has left."""
        while self._trace.drain()[0]:
            pass

    async def _empty(self) -> None:
        """Empty the ring as long as there are readers."""
        try:
            while self._readers:
                records, count = self._trace.drain()
                for reader in tuple(self._readers):
                    reader.offer(records, count)
                await asyncio.sleep(PERIOD_S if len(records) < MUCH_BYTES else 0)
        finally:
            self._pump = None


class _Reader:
    """A client that reads records."""

    def __init__(self, transport: asyncio.WriteTransport, kinds: int, trace: Trace) -> None:
        self.kinds = kinds | ALWAYS
        self._transport = transport
        self._trace = trace
        self._lost = 0

    def offer(self, records: bytes, count: int) -> None:
        """Send records, if there is room; count them otherwise."""
        if self._transport.get_write_buffer_size() > MAX_WAITING_BYTES:
            self._lost += count
            return
        if self._lost:
            self._transport.write(self._trace.lost(self._lost))
            self._lost = 0
        if records:
            self._transport.write(records)


def _kinds(names: object) -> int:
    """Kinds by name, as bits; all without any."""
    if names is None:
        return ALL_KINDS
    if not isinstance(names, list):
        raise ValueError("kinds: a list of names is required")
    kinds = 0
    for name in names:
        if not isinstance(name, str) or name not in KIND_NAMES:
            raise ValueError(f"kinds: {name!r} is none of {', '.join(KIND_NAMES)}")
        kinds |= 1 << KIND_NAMES[name]
    return kinds


def _require_only(arguments: Mapping[str, Any], *known: str) -> None:
    for name in arguments:
        if name not in known:
            raise ValueError(f"{name}: unknown; {', '.join(known)} expected")
