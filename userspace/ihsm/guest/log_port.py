# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The kernel's log as a guest sends it while it runs, record by record, over a port of its own."""

from __future__ import annotations

import socket
import threading
import time

from ihsm.guest.kernel_log import LogLine, parse_kmsg

_CHUNK = 1 << 16
_MOST_BYTES = 1 << 24
"""Of a guest that logs without end the latest is kept."""


class LogPort:
    """Collects the log in a thread, from the start of the guest to its end."""

    def __init__(self, end: socket.socket) -> None:
        """`end`: our end of the port; the caller closes it, after the guest has ended or been ended."""
        self._end = end
        self._text = b""
        self._over = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        data = b"\0"
        while data:
            try:
                data = self._end.recv(_CHUNK)
            except OSError:
                data = b""
            with self._news:
                self._text = (self._text + data)[-_MOST_BYTES:]
                self._over = not data
                self._news.notify_all()

    def wait_for(self, mark: str, limit_s: float) -> bool:
        """Whether the record `mark` of our init comes within `limit_s` seconds, or is there."""
        wanted = f";ihsm: {mark}\n".encode()
        end = time.monotonic() + limit_s
        with self._news:
            while wanted not in self._text:
                if self._over or not self._news.wait(end - time.monotonic()):
                    return wanted in self._text
        return True

    def since(self, mark: str) -> list[LogLine]:
        """The lines after the last record `mark` of our init, without its marks; none if there is no such record."""
        with self._news:
            text = self._text.decode(errors="replace")
        lines = parse_kmsg(text)
        start = next((i for i in reversed(range(len(lines))) if lines[i].text == f"ihsm: {mark}"), len(lines))
        return [line for line in lines[start:] if not line.text.startswith("ihsm: ")]

    def join(self) -> None:
        """Wait until the log is over: the other end is closed."""
        self._thread.join()
