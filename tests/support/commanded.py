# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Processes that obey lines on standard input and answer with lines of JSON, so that a test can search their memory.

The process is never told a secret that it shall not have: needles go straight to the scanner.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from support import memory_scan
from support.memory_scan import Hits

TESTS = Path(__file__).parents[1]


class Commanded:
    """Base of what such a process does: every method is a command, its arguments are words."""

    def scan(self, *sizes: str) -> list[memory_scan.Hits]:
        """Look for the needles of these sizes that follow the command on standard input."""
        lengths = [int(size) for size in sizes]
        memory_scan.receive_needles(0, sum(lengths))
        hits = memory_scan.count(lengths)
        memory_scan.forget_needles()
        return hits

    def command(self, name: str) -> Callable[..., object]:
        """The method that a line names."""
        found: Callable[..., object] = getattr(self, name)
        return found

    def obey(self) -> None:
        """Answer commands until standard input ends."""
        while line := _read_line():
            name, *arguments = line.split()
            print(json.dumps(self.command(name)(*arguments)), flush=True)


def _read_line() -> str:
    """A line of standard input, unbuffered, so that the scanner gets what follows."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line.decode()


class Commander:
    """The other end: starts the process of a module under tests/, by `program` and words that end with Python."""

    def __init__(self, module: str, program: Sequence[str] = (sys.executable,)) -> None:
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [*program, "-m", module], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    def __call__(self, *words: str, data: bytes = b"") -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(words).encode() + b"\n" + data)
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def search(self, needles: Mapping[str, Sequence[bytes]]) -> dict[str, list[Hits]]:
        """How often the process has these bytes in its memory, all at one moment."""
        flat = [needle for group in needles.values() for needle in group]
        hits = iter(Hits(*both) for both in self("scan", *(str(len(needle)) for needle in flat), data=b"".join(flat)))
        return {name: [next(hits) for _ in group] for name, group in needles.items()}

    def found(self, needle: bytes) -> int:
        """How often the process has these bytes in its memory."""
        return self.search({"": [needle]})[""][0].found

    def missing(self, needles: Mapping[str, Sequence[bytes]]) -> list[str]:
        """Of which groups no needle is there."""
        return [name for name, hits in self.search(needles).items() if not any(hit.found for hit in hits)]

    def present(self, needles: Mapping[str, Sequence[bytes]]) -> list[str]:
        """Of which groups any needle is there."""
        return [name for name, hits in self.search(needles).items() if any(hit.found for hit in hits)]

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()


def both_orders(value: bytes) -> list[bytes]:
    """A number as it lies in big-endian buffers and in little-endian limbs; a piece of it is enough."""
    return [value[:24], value[:24][::-1], value[-24:], value[-24:][::-1]]


def pieces(name: str, plain: bytes) -> list[bytes]:
    """What a search looks for: secret parts of a serialised key (numbers there are little-endian)."""
    if name in ("P256", "P384", "P521"):
        return both_orders(plain[: {"P256": 32, "P384": 48, "P521": 66}[name]])
    if name == "rsa":
        return both_orders(plain[:256])
    if name == "rsa-crt":
        return [piece for start in range(0, 512, 128) for piece in both_orders(plain[start : start + 128])]
    return [plain[:16], plain[16:32]] if len(plain) >= 32 else [plain[:16]]
