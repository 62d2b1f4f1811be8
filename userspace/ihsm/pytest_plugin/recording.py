# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The trace of a device during one test, in a file that outlives it if it fails."""

from __future__ import annotations

import contextlib
import itertools
import shlex
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from ihsm.closing import Closing
from ihsm.control import ControlClient
from ihsm.errors import IhsmError, TraceError
from ihsm.trace import files
from ihsm.trace.decoding import to_line
from ihsm.trace.live import TraceReader
from ihsm.trace.pcapng import PcapngWriter
from ihsm.trace.records import Mark, Record, decode, kind_of
from ihsm.trace.rules import Breach, Limits, judge
from ihsm_abi.control import MAX_MARK_CHARACTERS
from ihsm_abi.trace import TraceKind

_LIMIT_S: Final = 60.0
"""For what is recorded until now to arrive."""
_LOOK_S: Final = 0.2


class Recording(Closing):
    """A recording that goes on while it is read. One thread uses it; another one, its own, writes the file."""

    path: Path
    """The file, as `ihsm trace --write` makes it."""

    def __init__(self, socket_path: Path, path: Path, name: str) -> None:
        """Begin, with a mark that says `name`.

        Raises:
            IhsmError: the device gives no trace.
            OSError: the file cannot be made.
        """
        self.path = path
        self._numbers = itertools.count(1)
        self._arrived = threading.Condition()
        self._sought = ""
        self._is_over = False
        self._failure = ""
        with contextlib.ExitStack() as stack:
            self._control = stack.enter_context(ControlClient(socket_path, _LIMIT_S))
            self._reader = stack.enter_context(TraceReader(socket_path))
            self._file = stack.enter_context(path.open("wb"))
            self._writer = PcapngWriter(self._file, "ihsm, pytest")
            self._interface = self._writer.add_interface(f"{self._reader.socket_path} (function 0)")
            self._stack = stack.pop_all()
        self._thread = threading.Thread(target=self._write, daemon=True, name="ihsm trace")
        self._thread.start()
        self.mark(f"begin {name}"[:MAX_MARK_CHARACTERS])

    def _write(self) -> None:
        try:
            while not self._reader.ended and not self._is_over:
                found = self._reader.read(_LOOK_S)
                self._writer.write((self._interface, record) for record in found)
                self._look_for_mark(found)
        except (IhsmError, OSError) as error:
            self._failure = str(error)
        with self._arrived:
            self._is_over = True
            self._arrived.notify_all()

    def _look_for_mark(self, found: Sequence[bytes]) -> None:
        for piece in found:
            if kind_of(piece) == TraceKind.MARK:
                record = decode(piece)
                if isinstance(record, Mark) and record.text == self._sought:
                    with self._arrived:
                        self._sought = ""
                        self._arrived.notify_all()

    def mark(self, text: str) -> None:
        """Put a word into the trace, to find the place again; as `ihsm trace mark`.

        Raises:
            ControlError: the device does not take it.
        """
        self._control.mark(text)

    def _catch_up(self) -> None:
        """Wait until all that has happened by now is in the file, or nothing will be any more."""
        self._sought = text = f"ihsm_trace {next(self._numbers)}"
        self.mark(text)
        with self._arrived:
            if not self._arrived.wait_for(lambda: not self._sought or self._is_over, _LIMIT_S):
                raise TraceError(f"{self.path}: the device's records do not come")
        if self._failure:
            raise TraceError(f"{self.path}: {self._failure}")

    def records(self) -> list[Record]:
        """All that has happened by now.

        Raises:
            TraceError: records are missing: the device has ended, or the file cannot be written.
        """
        return [record for _, record in self._read()]

    def _read(self) -> list[files.Numbered]:
        if not self._is_over:
            try:
                self._catch_up()
            except IhsmError as error:
                raise TraceError(f"{self.path}: {error}") from None
        with self.path.open("rb") as file:
            return files.read_recording(file).records

    def breaches(self, limits: Limits | None = None) -> list[Breach]:
        """Which rules of a correct driver have been broken by now (docs/rules.md); `limits` say how long one has.

        Raises:
            TraceError: as `records`.
        """
        return judge(self._read(), limits).breaches

    def check(self, *, tolerated: Collection[str] = (), limits: Limits | None = None) -> None:
        """Fail if a rule has been broken by now; `tolerated` are names of rules that may be.

        Raises:
            AssertionError: one was; the message has each, with the records that prove it.
            TraceError: as `records`.
        """
        broken = [breach for breach in self.breaches(limits) if breach.rule.name not in tolerated]
        if broken:
            raise AssertionError("\n".join(line for breach in broken for line in _lines(breach)))

    def told(self) -> str:
        """What the report of a failed test says."""
        return f"{self.path}\nihsm trace check {shlex.quote(str(self.path))}"

    def discard(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Record what has happened, and no more; harmless the second time, and when the device has ended.

        Raises:
            TraceError: the file cannot be written.
        """
        with contextlib.suppress(IhsmError):
            if not self._is_over:
                self._catch_up()
        self._is_over = True
        self._thread.join()
        try:
            self._stack.close()
        except OSError as error:
            raise TraceError(f"{self.path}: {error.strerror or error}") from None


def _lines(breach: Breach) -> list[str]:
    """A breach as `ihsm trace check` shows it."""
    records = [f"  {seen.number:>8}  {to_line(seen.record)}" for seen in breach.records]
    return [f"{breach.rule.name} ({breach.rule.section}): {breach.message}", *records]
