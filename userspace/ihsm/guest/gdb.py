# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a debugger of a guest needs: the line to type, the kernel's symbols, and where the modules under test lie.

A kernel of ours has debug information. A distribution's has none, so its symbols are taken from /proc/kallsyms of a
guest once it is up, and kept: they are the same at each boot, for addresses are not randomised. Of a module, file and
lines are known; its addresses are known when it was loaded.
"""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from ihsm.guest.errors import ToolchainError
from ihsm.guest.kernel import GuestKernel
from ihsm.guest.sections import Loaded
from ihsm.guest.toolchain import cache_root, keep

COMMAND: Final = "ihsm-modules"
"""The command that our script adds to gdb."""
_ATTACH = "attach.gdb"
_MODULES = "modules.gdb"
_SYMBOL = re.compile(r"([0-9a-f]{16}) ([tTwW]) (\S+)", re.ASCII)
_SECTIONS = re.compile(r"\.(?:text|data|bss|rodata|init|exit|ref)[\w.]*", re.ASCII)


class Debugger:
    """Scripts for one guest, in a folder that lives as long as it."""

    def __init__(self, kernel: GuestKernel, port: int, folder: Path, say: Callable[[str], None]) -> None:
        """Write the script and say what to type."""
        self._kernel = kernel
        self._folder = folder
        self._say = say
        modules = folder / _MODULES
        modules.write_text("echo no module has been loaded yet\\n\n")
        self._script = folder / _ATTACH
        self._script.write_text("\n".join(self._attach(port, modules)) + "\n")
        say(f"guest: to debug it, type: gdb -x {shlex.quote(str(self._script))}")

    def _attach(self, port: int, modules: Path) -> list[str]:
        lines = ["set pagination off", "set confirm off"]
        known = self._symbols()
        if known:
            lines.append(f"file {known}")
        lines += [
            f"target remote 127.0.0.1:{port}",
            f"define {COMMAND}",
            f"source {modules}",
            "end",
            f"document {COMMAND}",
            "Read where the modules under test lie, once the guest has loaded them.",
            "end",
        ]
        if known:
            # Before that there is no memory as the kernel sees it, and no breakpoint elsewhere holds.
            lines += ["hbreak start_kernel", "continue"]
        scripts = self._kernel.modules / "build" / "vmlinux-gdb.py" if self._kernel.modules else None
        if scripts and scripts.exists():
            lines.append(f"source {scripts}")
        return lines

    def _symbols(self) -> Path | None:
        """The kernel's symbols, as far as there are any yet."""
        built = self._kernel.modules / "build" / "vmlinux" if self._kernel.modules else None
        if built and built.exists():
            return built
        kept = self._kept()
        return kept if kept and kept.exists() else None

    def _kept(self) -> Path | None:
        status = self._kernel.image.stat()
        try:
            name = f"{self._kernel.release}-{status.st_size:x}-{status.st_mtime_ns:x}.symbols"
            return cache_root() / "vmlinux" / name
        except ToolchainError:
            return None

    def loaded(self, loaded: Loaded) -> None:
        """Modules were loaded: write where they lie, and say how gdb learns of it."""
        lines = []
        if self._symbols() is None:
            text = loaded.kallsyms.read_text(errors="replace") if loaded.kallsyms.exists() else ""
            target = self._kept() or self._folder / "kernel.symbols"
            if keep(target, symbol_file(text)):
                lines.append(f"add-symbol-file {target}")
        for module in loaded.modules:
            addresses = loaded.addresses.get(module.kernel_name, {})
            if module.file and ".text" in addresses:
                others = [
                    f"-s {name} {address:#x}"
                    for name, address in sorted(addresses.items())
                    if name != ".text" and _SECTIONS.fullmatch(name)
                ]
                lines.append(f"add-symbol-file {module.file} {addresses['.text']:#x} {' '.join(others)}".rstrip())
        (self._folder / _MODULES).write_text("".join(f"{line}\n" for line in lines))
        self._say(f"guest: modules are loaded; in gdb, interrupt the guest with Ctrl-C and type: {COMMAND}")


def symbol_file(kallsyms: str) -> bytes:
    """An ELF file with the functions of the kernel itself that /proc/kallsyms lists, and nothing else.

    Layout: ELF-64 object file format; a section without content, symbols and their names.
    """
    symbols = [
        (int(match[1], 16), match[3].encode()) for line in kallsyms.splitlines() if (match := _SYMBOL.fullmatch(line))
    ]
    addresses = [address for address, _ in symbols if address >> 63] or [0]
    start, end = min(addresses), max(addresses) + 1
    names, table = bytearray(b"\0"), bytearray(24)
    for address, name in symbols:
        if address >> 63:  # those per processor are offsets
            # Name, FUNC and GLOBAL, default visibility, section 1, address, unknown size.
            table += struct.pack("<IBBHQQ", len(names), 0x12, 0, 1, address, 0)
            names += name + b"\0"
    section_names = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"
    offset = 64
    at = []
    for content in (table, names, section_names):
        at.append(offset)
        offset += len(content)
    sections: Sequence[tuple[int, ...]] = (
        (0,) * 10,
        (1, 8, 6, start, 64, end - start, 0, 0, 16, 0),  # NOBITS, allocated and executable
        (7, 2, 0, 0, at[0], len(table), 3, 1, 8, 24),
        (15, 3, 0, 0, at[1], len(names), 0, 0, 1, 0),
        (23, 3, 0, 0, at[2], len(section_names), 0, 0, 1, 0),
    )
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, offset, 0, 64, 0, 0, 64, len(sections), 4)
    packed = b"".join(struct.pack("<IIQQQQIIQQ", *section) for section in sections)
    return header + bytes(table) + bytes(names) + section_names + packed
