# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`ihsm trace`: what a served function sees and does, as lines, as JSON, or as a file for Wireshark."""

from __future__ import annotations

import contextlib
import selectors
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import click

from ihsm.arguments import MAX_WAIT_S
from ihsm.cli import installed
from ihsm.cli.common import Number, control_address, device_option, printable
from ihsm.cli.streams import silence_stdout
from ihsm.cli.trace_check import check, rules
from ihsm.cli.trace_diff import diff
from ihsm.control import ControlClient
from ihsm.errors import OutputError
from ihsm.trace import dissector
from ihsm.trace.decoding import to_json, to_line
from ihsm.trace.filters import NAMES, Filter, Filters
from ihsm.trace.live import TraceReader
from ihsm.trace.pcapng import PcapngWriter
from ihsm.trace.records import decode, kind_of
from ihsm.uri import AUTO
from ihsm_abi import json_text
from ihsm_abi.control import MAX_MARK_CHARACTERS
from ihsm_abi.trace import TraceKind

_WHERE: Final = "traces are had where `ihsm serve` runs"

STDOUT: Final = "-"
MAX_COUNT: Final = 1_000_000_000
_UNCOUNTED: Final = frozenset({TraceKind.START, TraceKind.QUEUE})
"""Kinds that a trace begins with, whatever happens."""


def _parse_filters(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> Filters:
    try:
        return Filters(Filter.parse(text) for text in texts)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


@click.group(
    invoke_without_command=True,
    help=f"""Show what a served device sees and does, until it ends or Ctrl-C: registers, doorbells, queue entries,
    messages without their secrets, interrupts, memory, resets, faults. Or write it to a file that Wireshark reads.

    A filter is NAME=VALUE,... or NAME!=VALUE,..., or kinds alone; NAME is one of {", ".join(NAMES)}. All that are
    given must fit. The device goes on whoever reads; what a reader is too slow for is counted in a record.
    """,
)
@click.option(
    "--device",
    "devices",
    metavar="URI",
    multiple=True,
    help="As for other commands; several times for several functions.",
)
@click.option(
    "--write", "file", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True, dir_okay=False),
    help="Write pcapng to FILE, - for standard output, as in `ihsm trace --write - | wireshark -k -i -`.",
)  # fmt: skip
@click.option(
    "--filter", "filters", metavar="CONDITION", multiple=True, callback=_parse_filters,
    help="Which records; several times for several conditions.",
)  # fmt: skip
@click.option("--count", type=click.IntRange(1, MAX_COUNT), metavar="N", help="End after N records.")
@click.option("--seconds", type=Number(min=0, max=MAX_WAIT_S), metavar="S", help="End after so long.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")
@click.pass_context
def trace(
    context: click.Context,
    devices: tuple[str, ...],
    file: Path | None,
    filters: Filters,
    count: int | None,
    seconds: float | None,
    as_json: bool,
) -> None:
    """Run `ihsm trace`."""
    if context.invoked_subcommand is not None:
        if devices or file or filters or count or seconds is not None or as_json:
            raise click.UsageError(f"options go behind {context.invoked_subcommand}")
        return
    if file is not None and as_json:
        raise click.UsageError("--write and --json exclude each other")
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(TraceReader(control_address(device, _WHERE), filters.kinds))
            for device in devices or (AUTO,)
        ]
        try:
            with _sink(file, as_json, readers, filters) as sink, contextlib.suppress(KeyboardInterrupt):
                _record(readers, sink, filters, count, seconds)
        except BrokenPipeError:  # whoever reads has enough, be it before the first record: the end, and no error
            silence_stdout()


class _Sink(Protocol):
    """Where records go."""

    def write(self, reader: int, records: Sequence[bytes]) -> None:
        """Some of one reader; BrokenPipeError when nobody wants more."""


class _Lines:
    """Lines of text or JSON on standard output."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def write(self, reader: int, records: Sequence[bytes]) -> None:
        for record in map(decode, records):
            line = json_text.dump(to_json(record)) if self._as_json else printable(to_line(record))
            sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


class _Packets:
    """A pcapng file."""

    def __init__(self, file: BinaryIO, readers: Sequence[TraceReader], filters: Filters) -> None:
        self._writer = PcapngWriter(file, f"ihsm {installed.version()}")
        self._interfaces = [
            self._writer.add_interface(f"{reader.socket_path} (function {reader.start.function})", str(filters))
            for reader in readers
        ]

    def write(self, reader: int, records: Sequence[bytes]) -> None:
        self._writer.write((self._interfaces[reader], record) for record in records)


@contextlib.contextmanager
def _sink(file: Path | None, as_json: bool, readers: Sequence[TraceReader], filters: Filters) -> Iterator[_Sink]:
    """Open what is written to. BrokenPipeError, then or later: nobody reads any more."""
    if file is None:
        yield _Lines(as_json)
    elif str(file) == STDOUT:
        yield _Packets(sys.stdout.buffer, readers, filters)
    else:
        try:
            with file.open("wb") as opened:
                yield _Packets(opened, readers, filters)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"{file}: {error.strerror or error}") from None


def _record(
    readers: Sequence[TraceReader], sink: _Sink, filters: Filters, count: int | None, seconds: float | None
) -> None:
    """Move records until there are enough, the time is over, or all devices have ended."""
    end = None if seconds is None else time.monotonic() + seconds
    left = MAX_COUNT if count is None else count
    with selectors.DefaultSelector() as selector:
        for number, reader in enumerate(readers):
            selector.register(reader, selectors.EVENT_READ, number)
            left -= _move(number, reader.read(0), sink, filters, left)
        while left > 0 and selector.get_map():
            wait_s = None if end is None else end - time.monotonic()
            if wait_s is not None and wait_s <= 0:
                return
            for key, _ in selector.select(wait_s):
                reader = readers[key.data]
                left -= _move(key.data, reader.read(0), sink, filters, left)
                if reader.ended:
                    selector.unregister(reader)


def _move(number: int, records: Sequence[bytes], sink: _Sink, filters: Filters, most: int) -> int:
    """Hand on the records that fit, and no more than wanted; how many of them count."""
    chosen, counted = [], 0
    for record in records:
        if counted == most:
            break
        if filters.fit(decode(record)):
            chosen.append(record)
            counted += kind_of(record) not in _UNCOUNTED
    if chosen:
        sink.write(number, chosen)
    return counted


@trace.command(help="Put TEXT into the trace that somebody records of a served device, to find the place again.")
@click.argument("text")
@device_option
def mark(text: str, device: str) -> None:
    """Run `ihsm trace mark`."""
    if not 1 <= len(text) <= MAX_MARK_CHARACTERS:
        raise click.BadParameter(f"1 to {MAX_MARK_CHARACTERS} characters are possible", param_hint="TEXT")
    with ControlClient(control_address(device, _WHERE)) as client:
        if not client.mark(printable(text)):
            raise click.ClickException("nobody records a trace of this device: the mark is in none")


@trace.command(
    "dissector",
    help="""Print the dissector that has Wireshark and tshark read traces: a script in Lua. Needs no device.

    With --install it is put among the plugins of your Wireshark, and its path is printed.
    """,
)
@click.option("--install", is_flag=True, help="Put it into ~/.local/lib/wireshark/plugins.")
def dissector_command(install: bool) -> None:
    """Run `ihsm trace dissector`."""
    if not install:
        click.echo(dissector.text(), nl=False)
        return
    click.echo(dissector.install())


for _command in (check, diff, rules):
    trace.add_command(_command)
