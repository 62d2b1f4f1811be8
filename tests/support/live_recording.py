# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a served device records while a test runs, taken from its control socket."""

from __future__ import annotations

import os
import threading
import uuid

from ihsm.closing import Closing
from ihsm.control import ControlClient
from ihsm.trace.live import TraceReader
from ihsm.trace.records import Mark, Record, decode
from ihsm.trace.rules import clock_mark
from support.waiting import HANG_S, ended


class LiveRecording(Closing):
    """Records from now until it is closed."""

    def __init__(self, socket_path: str | os.PathLike[str]) -> None:
        self.records: list[Record] = []
        self._end = f"end {uuid.uuid4()}"
        self._reader = TraceReader(socket_path, timeout_s=HANG_S)
        self._client = ControlClient(socket_path, HANG_S)
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._reader.ended:
            new = [decode(record) for record in self._reader.read(HANG_S)]
            self.records += new
            if any(isinstance(record, Mark) and record.text == self._end for record in new):
                return

    def clock_moves(self, seconds: float) -> None:
        """Note that the driver's clock is moved on."""
        self._client.mark(clock_mark(seconds))

    def close(self) -> None:
        """All that the device has recorded until now is in `records`."""
        if self._thread.is_alive():
            self._client.mark(self._end)
            ended(self._thread)
        self._client.close()
        self._reader.close()
