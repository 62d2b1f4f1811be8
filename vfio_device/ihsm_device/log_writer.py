# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The log of a server: what guests cause is limited, and nobody waits for whoever reads it.

A guest can cause a line with every access. Of each kind of line a function gets `KIND_LINES` in `PERIOD_S` seconds, of
all kinds together `FUNCTION_LINES`; the others are counted, and a line says how many there were. A thread of its own
writes, so that a log on a full disk or a pipe that nobody reads stops no thread that logs, whatever locks that holds.
"""

import contextlib
import logging
import os
import queue
import re
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from ihsm_abi import logs

PERIOD_S: Final = 10.0
KIND_LINES: Final = 5
FUNCTION_LINES: Final = 40
MAX_KINDS: Final = 64
"""Kinds of one function that are told apart within a period."""
MAX_QUEUED: Final = 2000
"""Lines that wait to be written; those beyond are lost and counted."""
LOOK_EVERY_S: Final = 1.0
CLOSE_TIMEOUT_S: Final = 2.0

_NUMBERS: Final = re.compile(r"0x[0-9a-fA-F]+|[0-9]+")
_OTHERS: Final = "other kinds"
_Kind = tuple[str, int, str]


@dataclass(slots=True)
class _Repeated:
    """What a function's lines of one kind came to in this period."""

    lines: int = 0
    suppressed: int = 0
    last: logging.LogRecord | None = None


class _Period:
    """The lines of one function since a moment."""

    def __init__(self, now: float) -> None:
        self.begin = now
        self.lines = 0
        self.kinds: dict[_Kind, _Repeated] = {}

    def admit(self, record: logging.LogRecord) -> bool:
        # A library's lines come as text already: what differs in numbers is one kind.
        shape = record.msg if record.msg != "%s" else _NUMBERS.sub("#", record.getMessage())
        kind = (record.name, record.levelno, str(shape))
        if kind not in self.kinds and len(self.kinds) >= MAX_KINDS:
            kind = ("", 0, _OTHERS)
        repeated = self.kinds.setdefault(kind, _Repeated())
        if repeated.lines < KIND_LINES and self.lines < FUNCTION_LINES:
            repeated.lines += 1
            self.lines += 1
            return True
        repeated.suppressed += 1
        repeated.last = record
        return False

    def report(self) -> Iterator[logging.LogRecord]:
        """A line for each kind of which some were left out."""
        for repeated in self.kinds.values():
            if (last := repeated.last) is not None:
                text = f"repeated {repeated.suppressed} times within {PERIOD_S:g} s: {last.getMessage()}"
                about = {"name": last.name, "levelno": last.levelno, "levelname": last.levelname, "msg": text}
                yield logging.makeLogRecord(about | {"threadName": last.threadName, "function": logs.function_of(last)})


class LogWriter(logging.Handler):
    """Writes records of all threads to a descriptor, from a thread of its own."""

    def __init__(self, descriptor: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`descriptor` stays open; `clock` tells seconds. Nothing is written before `start`."""
        super().__init__()
        self._descriptor = descriptor
        self._clock = clock
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._periods: dict[int | None, _Period] = {}
        self._lost = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)

    def start(self) -> None:
        """Write from now on what was logged before too; RuntimeError if there can be no thread."""
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record to the thread, unless there were too many like it; never waits."""
        record.function = function = logs.function_of(record)  # the writing thread would not know
        if record.levelno >= logging.INFO:  # whoever debugs wants all
            now = self._clock()
            period = self._periods.get(function)
            if period is None or now - period.begin >= PERIOD_S:
                if period is not None:
                    self._report(period)
                period = self._periods[function] = _Period(now)
            if not period.admit(record):
                return
        self._enqueue(record)

    def _enqueue(self, record: logging.LogRecord) -> None:
        if self._queue.qsize() >= MAX_QUEUED:
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            text = f"{lost} lines were lost: whoever reads the log was too slow"
            about = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": text}
            self._enqueue(logging.makeLogRecord(about))
        self._queue.put(self.format(record).encode(errors="backslashreplace") + b"\n")

    def _report(self, period: _Period) -> None:
        for record in period.report():
            self._enqueue(record)

    def flush_repeated(self, *, all_periods: bool = False) -> None:
        """Say what was left out in periods that are over."""
        with self.lock or contextlib.nullcontext():
            now = self._clock()
            for function, period in list(self._periods.items()):
                if all_periods or now - period.begin >= PERIOD_S:
                    del self._periods[function]
                    self._report(period)

    def _write_all(self) -> None:
        """Until the end mark; holds no lock while it writes."""
        while True:
            try:
                line = self._queue.get(timeout=LOOK_EVERY_S)
            except queue.Empty:
                self.flush_repeated()
                continue
            if line is None:
                return
            self._write(line)

    def _write(self, data: bytes) -> None:
        try:
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    select.select([], [self._descriptor], [])
        except (OSError, ValueError):
            pass  # a full disk, a reader that has gone: there is nobody to tell

    def close(self) -> None:
        """Write what is left, unless it cannot be written; harmless the second time."""
        self.flush_repeated(all_periods=True)
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
        else:
            while (line := self._queue.get()) is not None:
                self._write(line)
        super().close()
