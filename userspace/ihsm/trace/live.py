# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Records of a served function as they come, from its control socket."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ihsm.closing import Closing
from ihsm.control import DEFAULT_TIMEOUT_S, ControlClient
from ihsm.errors import ControlError, TraceError
from ihsm.trace.records import Record, RecordSplitter, Start, decode, kind_of
from ihsm_abi.control import ControlCommand
from ihsm_abi.trace import TraceKind


class TraceReader(Closing):
    """A reader of one function's trace. Recording has begun when it is made, and goes on until it is closed."""

    def __init__(
        self,
        socket_path: str | os.PathLike[str],
        kinds: Sequence[str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        """Begin to read.

        Args:
            socket_path: the function's vfio-user socket.
            kinds: names of the kinds wanted (`ihsm_abi.trace.KIND_NAMES`), None for all. Others may come too, where
                another reader wants them.
            timeout_s: longest wait for the beginning, in seconds.

        Raises:
            DeviceNotFoundError: nobody listens there.
            ControlError: the device has no traces, has too many readers, or does not begin in time.
        """
        self._client = ControlClient(socket_path, timeout_s)
        self._splitter = RecordSplitter()
        self._waiting: list[bytes] = []
        self.ended = False
        """The device has ended, or the connection to it."""
        try:
            arguments: dict[str, Any] = {} if kinds is None else {"kinds": list(kinds)}
            self.socket_path = str(self._client.call(ControlCommand.TRACE_START, **arguments).get("socket"))
            deadline = time.monotonic() + timeout_s
            while not self._waiting:
                self._receive(max(0.0, deadline - time.monotonic()))
                if self.ended or time.monotonic() > deadline:
                    raise ControlError("protocol", f"{self._client.path}: the trace did not begin")
            if kind_of(self._waiting[0]) != TraceKind.START:
                raise ControlError("protocol", f"{self._client.path}: a trace without a beginning")
        except BaseException:
            self.close()
            raise

    @property
    def start(self) -> Start:
        """The record that comes first. Before the first `read`."""
        record = decode(self._waiting[0])
        assert isinstance(record, Start)
        return record

    def fileno(self) -> int:
        """Readable when there is something to `read`; what the beginning brought along is there without it."""
        return self._client.fileno()

    def read(self, timeout_s: float | None) -> list[bytes]:
        """The records that are there, as bytes in their order, or the next that come within `timeout_s` seconds.

        None is for ever. The list is empty when the time is over or the device has `ended`.

        Raises:
            TraceError: what comes are no records.
        """
        if not self._waiting and not self.ended:
            self._receive(timeout_s)
        found, self._waiting = self._waiting, []
        return found

    def records(self) -> Iterator[Record]:
        """Every record until the device ends, however long that takes.

        Raises:
            TraceError: what comes are no records.
        """
        while not self.ended:
            yield from map(decode, self.read(None))

    def _receive(self, timeout_s: float | None) -> None:
        piece = self._client.receive(timeout_s)
        if piece is None:
            return
        if not piece:
            self.ended = True
            if not self._splitter.is_between:
                raise TraceError(f"{self._client.path}: the stream ended within a record")
        self._waiting += self._splitter.feed(piece)

    def close(self) -> None:
        """End recording, as far as this reader is concerned."""
        self._client.close()
