# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The trace of one function (ihsm_abi.trace): what Python records, and the ring that holds it all (native/hooks.h)."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from ihsm_abi import trace
from ihsm_abi.ddi.cutting import CutMessage, cut_request, cut_response, operation_of
from ihsm_abi.entries import reader
from ihsm_abi.resources import ADMIN_QUEUE_ID
from ihsm_abi.trace import FORMAT_VERSION, NO_QUEUE, TraceKind, padded
from ihsm_device._native import ffi, lib
from ihsm_device.commands import Command
from ihsm_device.engine import Engine
from ihsm_device.version import VERSION

_CHUNK_BYTES: Final = 1024 * 1024
_MESSAGES: Final = 1 << TraceKind.REQUEST | 1 << TraceKind.RESPONSE
_HEADER: Final = reader(trace.TRACE_HEADER, "time_ns", "length", "kind", "function")
_MESSAGE: Final = reader(trace.MESSAGE_BODY, "queue", "cid", "length", "flags", "cut")
_FAULT: Final = reader(trace.FAULT_BODY, "fault", "queue", "vector")
_PROCESS: Final = reader(trace.PROCESS_BODY, "pid")
_RESET: Final = reader(trace.RESET_BODY, "reset")
_START: Final = reader(trace.START_BODY, "version", "ready")
_LOST: Final = reader(trace.LOST_BODY, "count", "where")
_QUEUE: Final = reader(trace.QUEUE_BODY, *(trace.QUEUE_BODY.names or ()))


class NoTracesError(Exception):
    """This build has no hooks, or there is no memory for a ring."""


class Trace:
    """What one function records; methods without a word on threads may be called from any."""

    messages: bool = False
    """Whether requests and responses are recorded: for who would have to make a record of one first."""

    def __init__(self, engine: Engine, function: int, queue_ids: Sequence[int]) -> None:
        """Nothing is recorded before `select`; `queue_ids` are the queue pairs that the function can have."""
        self._engine = engine
        self._host = engine.host.handle
        self._function = function
        self._queue_ids = queue_ids
        self._chunk = ffi.new("uint8_t[]", 0)
        self._count = ffi.new("uint64_t *")

    # -- what is recorded, if its kind is

    def request(self, command: Command) -> None:
        """An HSM command's request, without its secrets; a flush has none."""
        if command.request:
            self._message(TraceKind.REQUEST, command, command.request, cut_request(command.request))

    def response(self, command: Command, message: bytes) -> None:
        """An HSM command's response, without its secrets; a completion without one has none."""
        if message:
            cut = cut_response(message, operation_of(command.request))
            self._message(TraceKind.RESPONSE, command, message, cut)

    def _message(self, kind: TraceKind, command: Command, message: bytes, cut: CutMessage) -> None:
        body = _MESSAGE.pack(command.queue_id, command.cid, len(message), cut.flags, cut.cut)
        self._put(kind, body + cut.message)

    def mark(self, text: str) -> bool:
        """Somebody's word; whether it was recorded."""
        return self._put(TraceKind.MARK, text.encode("utf-8", "backslashreplace"))

    def client_came(self, pid: int, program: str) -> None:
        """A client has connected; pid 0: it is not known."""
        self._put(TraceKind.CONNECT, _PROCESS.pack(pid) + program.encode())

    def client_gone(self, pid: int) -> None:
        """The client's connection has ended."""
        self._put(TraceKind.DISCONNECT, _PROCESS.pack(pid))

    def reset(self) -> None:
        """A fault resets the function."""
        self._put(TraceKind.RESET, _RESET.pack(trace.TraceReset.FAULT))

    def fault_added(self, number: int, text: str) -> None:
        """A fault is shown from now on."""
        self._put(TraceKind.FAULT_ADDED, _FAULT.pack(number, NO_QUEUE, NO_QUEUE) + text.encode())

    def fault_cleared(self, number: int) -> None:
        """A fault is shown no more."""
        self._put(TraceKind.FAULT_CLEARED, _FAULT.pack(number, NO_QUEUE, NO_QUEUE))

    def _put(self, kind: TraceKind, content: bytes) -> bool:
        return bool(lib.ihsm_trace_put(self._host, kind, content, len(content)))

    # -- for the one thread that reads

    def prepare(self) -> None:
        """Make room for records.

        Raises:
            NoTracesError: there can be none.
        """
        result = lib.ihsm_trace_prepare(self._host, self._function)
        if result == -errno.EOPNOTSUPP:
            raise NoTracesError("this device was built without the places that traces record (trace_hooks)")
        if result < 0:
            raise NoTracesError("there is no memory for a trace")
        if not len(self._chunk):
            self._chunk = ffi.new("uint8_t[]", _CHUNK_BYTES)

    def select(self, kinds: int) -> None:
        """Record these kinds from now on, by bit, after `prepare`; 0 for none."""
        lib.ihsm_trace_select(self._host, kinds)
        self.messages = bool(kinds & _MESSAGES)

    def drain(self) -> tuple[bytes, int]:
        """Take records that wait, at most a mebibyte, as a stream has them; and how many they are."""
        size = lib.ihsm_trace_drain(self._host, self._chunk, len(self._chunk), self._count)
        return bytes(ffi.buffer(self._chunk, size)), int(self._count[0])

    def beginning(self, faults: Sequence[tuple[int, str]]) -> bytes:
        """What a stream starts with: how the function is now, with its faults by number and text."""
        admin = self._engine.queue(ADMIN_QUEUE_ID)
        start = _START.pack(FORMAT_VERSION, admin is not None and admin.has_sq)
        queues = [state for queue_id in self._queue_ids if (state := self._engine.queue(queue_id)) is not None]
        return b"".join(
            (
                self._record(TraceKind.START, start + VERSION.encode()),
                *(
                    self._record(
                        TraceKind.QUEUE,
                        _QUEUE.pack(
                            queue.queue_id,
                            NO_QUEUE if queue.vector is None else queue.vector,
                            queue.has_sq,
                            queue.has_cq,
                            *(queue.sq_entries, queue.sq_head, queue.sq_tail),
                            *(queue.cq_entries, queue.cq_head, queue.cq_tail),
                        ),
                    )
                    for queue in queues
                ),
                *(
                    self._record(TraceKind.FAULT_ADDED, _FAULT.pack(number, NO_QUEUE, NO_QUEUE) + text.encode())
                    for number, text in faults
                ),
            )
        )

    def lost(self, count: int) -> bytes:
        """A record for one reader: how many it did not get, for it was slow."""
        return self._record(TraceKind.LOST, _LOST.pack(count, trace.LostWhere.READER))

    def _record(self, kind: TraceKind, content: bytes) -> bytes:
        record = _HEADER.pack(int(lib.ihsm_trace_now(self._host)), len(content), kind, self._function) + content
        return record.ljust(padded(len(record)), b"\0")
