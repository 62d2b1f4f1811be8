# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings in files: pcapng, or JSON lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedReader
from typing import Final, NamedTuple

from ihsm.errors import TraceCutError, TraceError
from ihsm.trace import jsonl, pcapng
from ihsm.trace.records import Record

_PCAPNG: Final = pcapng.SECTION.to_bytes(4, "big")


class Numbered(NamedTuple):
    """A record and where it is in its file."""

    number: int
    """From 1: of the packet, as other programs count them, or of the line."""
    record: Record


@dataclass(slots=True)
class Recording:
    """What a file has."""

    records: list[Numbered]
    cut: str | None = None
    """The file ends in the middle of a record: where. What is before it is whole."""
    chosen: str = ""
    """Which records were written, of one function at least; empty for all."""


def read_recording(file: BufferedReader) -> Recording:
    """All records of a file, of either form.

    Raises:
        TraceError: it is neither, or damaged.
        OSError: it cannot be read.
    """
    if not file.peek(1):
        raise TraceError("an empty file")
    recording = Recording([])
    try:
        if file.peek(len(_PCAPNG))[: len(_PCAPNG)] == _PCAPNG:
            for packet in pcapng.read_file(file):
                recording.records.append(Numbered(packet.number, packet.record))
                recording.chosen = recording.chosen or packet.chosen
        else:
            lines = iter(lambda: file.readline(jsonl.LONGEST_LINE + 1), b"")
            recording.records.extend(itertools.starmap(Numbered, jsonl.read_lines(lines)))
    except TraceCutError as error:
        recording.cut = str(error)
    return recording


def numbered(records: Iterable[Record]) -> list[Numbered]:
    """Records that are in no file, numbered as they come."""
    return list(itertools.starmap(Numbered, enumerate(records, 1)))
