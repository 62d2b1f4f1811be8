# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""From a place in a module's code, as a kernel prints it, to file and line of its source.

By binutils, which whoever builds modules has. A module's file is relocatable: its addresses are offsets in sections, so
a symbol gives the section, and the line is looked up there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

from ihsm.guest.initramfs import GuestModule
from ihsm.guest.kernel import module_name
from ihsm.guest.kernel_log import Complaint, Frame

_SYMBOL = re.compile(r"([0-9a-f]{16}) .{7} (\S+)\t([0-9a-f]{16}) (?:\.hidden )?(\S+)")
_LINE = re.compile(r"(.+):(\d+)(?: \(discriminator \d+\))?")
_LIMIT_S = 60.0


class ModuleSymbols:
    """Symbols and line table of one module file. Without debug information, or binutils, no place has a line."""

    def __init__(self, file: Path) -> None:
        """`file`: a .ko as it was built, not compressed."""
        self._file = file

    @cached_property
    def _symbols(self) -> dict[tuple[str, int], tuple[str, int]]:
        """Name and size of a function -> section and offset there."""
        table = {}
        for line in _output("objdump", "-t", str(self._file)).splitlines():
            if match := _SYMBOL.fullmatch(line):
                value, section, size, name = match.groups()
                table[name, int(size, 16)] = section, int(value, 16)
        return table

    def functions(self) -> list[tuple[str, int]]:
        """Names and sizes in bytes of what has a symbol."""
        return list(self._symbols)

    def line(self, frame: Frame) -> str | None:
        """FILE:LINE of a place, None if it is not known."""
        start = self._symbols.get((frame.function, frame.size)) or self._by_name(frame.function)
        if start is None:
            return None
        # A return address may belong to the line after the call's.
        address = start[1] + frame.offset - (1 if frame.returns else 0)
        text = _output("addr2line", "-i", "-e", str(self._file), "-j", start[0], f"{address:#x}")
        matches = [match for line in text.splitlines() if (match := _LINE.fullmatch(line)) and match[1] != "??"]
        # Innermost first. What was inlined from a header says less than the line that called it.
        own = [match for match in matches if "/include/" not in match[1]]
        return next((f"{match[1]}:{match[2]}" for match in (*own, *matches)), None)

    def _by_name(self, function: str) -> tuple[str, int] | None:
        # The kernel counts a function's padding as part of it, objdump does not.
        found = [place for (name, _), place in self._symbols.items() if name == function]
        return found[0] if len(found) == 1 else None


class SourceLines:
    """Where in the sources of the modules under test what a kernel complains of comes from."""

    def __init__(self, modules: Iterable[GuestModule] = ()) -> None:
        """Those of `modules` that are tested and lie in a file count."""
        self._symbols: Mapping[str, ModuleSymbols] = {
            module.kernel_name: ModuleSymbols(module.file) for module in modules if module.tested and module.file
        }

    def place(self, complaint: Complaint) -> str | None:
        """FILE:LINE, in FUNCTION of the innermost code of a module under test; None where there is none."""
        frame = complaint.first_in(self._symbols)
        if frame is None or frame.module is None:
            return None
        line = self._symbols[module_name(frame.module)].line(frame)
        return f"{line}, in {frame.function.partition('.')[0]}" if line else f"in {frame}"


def _output(program: str, *words: str) -> str:
    """What a program prints; nothing if it is not there or fails."""
    if not (path := shutil.which(program)):
        return ""
    done = subprocess.run(
        [path, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=_LIMIT_S,
    )
    return done.stdout if done.returncode == 0 else ""
