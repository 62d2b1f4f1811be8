# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The log of a server: what guests cause is limited, and nobody waits for whoever reads it.

A guest can cause a line with every access. Of each kind of line a function gets `KIND_LINES` in `PERIOD_S` seconds, of
all kinds together `FUNCTION_LINES`; the others are counted, and a line says how many there were. A thread of its own
writes, so that a log on a full disk or a pipe that nobody reads stops no thread that logs, whatever locks that holds.
What is lost that way is counted, and a line tells of it as soon as lines can be written again.
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
        self._overflowed = 0
        """Lines for which there was no room or no memory, since a line told of some."""
        self._overflowed_in_all = 0
        self._unwritten = 0
        """Lines that could not be written, since a line told of some; of the writing thread, as what follows."""
        self._unwritten_in_all = 0
        self._why_unwritten = ""
        self._torn = b""
        """What ends a line of which a part was written."""
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)

    def start(self) -> None:
        """Write from now on what was logged before too; RuntimeError if there can be no thread."""
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand a record to the thread, unless there were too many like it; never waits, and raises nothing."""
        try:
            self._admit(record)
        except MemoryError:
            self._overflow()

    def _admit(self, record: logging.LogRecord) -> None:
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
            self._overflow()
            return
        line = self._line(record)
        self._tell_overflowed()
        self._queue.put(line)

    def _overflow(self) -> None:
        self._overflowed += 1
        self._overflowed_in_all += 1
        if self._overflowed == 1:
            with contextlib.suppress(MemoryError):
                self._queue.put(b"")  # the writing thread may sleep, and tells of it in time

    def _tell_overflowed(self) -> None:
        """What was lost came before whatever is handed on next."""
        if self._overflowed:
            note = self._note(f"{self._overflowed} lines were lost: whoever reads the log was too slow")
            self._overflowed = 0
            self._queue.put(note)

    def _note(self, text: str) -> bytes:
        """A line of this module's own."""
        about = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": text}
        return self._line(logging.makeLogRecord(about))

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    @property
    def lost(self) -> int:
        """Lines that nobody will read, since the start; those that were like others and counted are none of them."""
        return self._overflowed_in_all + self._unwritten_in_all

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
            if self._queue.qsize() < MAX_QUEUED:
                self._tell_overflowed()

    def _write_all(self) -> None:
        """Until the end mark; holds no lock while it writes."""
        ended = False
        while not ended:
            with contextlib.suppress(MemoryError):
                ended = self._write_next()

    def _write_next(self) -> bool:
        """Write the next line, or tell of what was left out; whether that was the last."""
        try:
            line = self._queue.get(timeout=LOOK_EVERY_S if self._owes() else None)
        except queue.Empty:
            self.flush_repeated()
            self._write(b"")
            return False
        self._write(line or b"")
        return line is None

    def _owes(self) -> bool:
        """Whether there is something to tell though no line comes; a line woke the thread since that began."""
        return bool(self._periods or self._overflowed or self._unwritten)

    def _write(self, line: bytes) -> None:
        """Write a line, and before it how many could not be written; it is counted as one of these if that fails."""
        note = self._note(f"{self._unwritten} lines were lost: {self._why_unwritten}") if self._unwritten else b""
        data = self._torn + note + line if note or line else b""
        written = 0
        try:
            while written < len(data):
                try:
                    written += os.write(self._descriptor, data[written:])
                except BlockingIOError:
                    select.select([], [self._descriptor], [])
            self._unwritten = 0
        except (OSError, ValueError) as error:  # a full disk, a reader that has gone: there is nobody to tell for now
            self._why_unwritten = f"the log could not be written ({getattr(error, 'strerror', None) or error})"
            self._unwritten += bool(line)
            self._unwritten_in_all += bool(line)
        if written:
            self._torn = b"" if data[:written].endswith(b"\n") else b"\n"

    def close(self) -> None:
        """Write what is left, unless it cannot be written; harmless the second time."""
        self.flush_repeated(all_periods=True)
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join(CLOSE_TIMEOUT_S)
        else:
            while not self._write_next():
                pass
        super().close()
