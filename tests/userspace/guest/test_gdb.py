# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""What a debugger is given: a kernel's symbols as an ELF file, and where modules lie."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ihsm.guest.gdb import COMMAND, Debugger, symbol_file
from ihsm.guest.initramfs import GuestModule
from ihsm.guest.kernel import GuestKernel
from ihsm.guest.sections import Loaded, Sections

KALLSYMS = """0000000000000000 A fixed_percpu_data
ffffffff81000000 T _stext
ffffffff81000040 t helper_one
ffffffff82000000 D data
ffffffffc0000000 t of_a_module\t[bench]
"""


def test_binutils_find_the_kernels_functions_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "symbols"
    file.write_bytes(symbol_file(KALLSYMS))
    done = subprocess.run(["nm", file], capture_output=True, text=True, check=True)
    assert [line.split()[::2] for line in done.stdout.splitlines()] == [
        ["ffffffff81000000", "_stext"],
        ["ffffffff81000040", "helper_one"],
    ]


@given(st.text(max_size=200))
def test_any_text_gives_a_file(text: str) -> None:
    assert symbol_file(text).startswith(b"\x7fELF")


def test_what_is_typed_and_what_modules_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    image, said = tmp_path / "image", list[str]()
    image.touch()
    debugger = Debugger(GuestKernel("6.1.0", image, None), 4321, tmp_path, said.append)
    script = Path(said[0].rpartition(" ")[2])
    assert said[0].startswith("guest: to debug it, type: gdb -x ")
    assert "target remote 127.0.0.1:4321" in script.read_text()
    assert "start_kernel" not in script.read_text()

    sections = Sections()
    for line in ("bench .text 0xffffffffc0000000", "bench .data 0x10", "bench .note.Linux 0x20", "nonsense"):
        sections.hear(line)
    (tmp_path / "kallsyms").write_text(KALLSYMS)
    modules = [GuestModule("bench.ko", b"", tested=True, file=tmp_path / "bench.ko"), GuestModule("other.ko", b"")]
    debugger.loaded(Loaded(sections.addresses, modules, tmp_path / "kallsyms"))
    assert said[1].endswith(COMMAND)
    kernel, module = (tmp_path / "modules.gdb").read_text().splitlines()
    assert module == f"add-symbol-file {tmp_path}/bench.ko 0xffffffffc0000000 -s .data 0x10"
    assert Path(kernel.partition(" ")[2]).exists()

    # Kept for the next time, which stops where breakpoints begin to hold.
    Debugger(GuestKernel("6.1.0", image, None), 4321, tmp_path, said.append)
    assert f"file {kernel.partition(' ')[2]}\n" in script.read_text()
    assert "hbreak start_kernel\n" in script.read_text()


@pytest.mark.skipif(shutil.which("gdb") is None, reason="gdb is not installed")
def test_gdb_takes_the_symbols(tmp_path: Path) -> None:
    file = tmp_path / "symbols"
    file.write_bytes(symbol_file(KALLSYMS))
    words = ["-ex", "info symbol 0xffffffff81000040", "-ex", "info address _stext"]
    done = subprocess.run(["gdb", "-nx", "-batch", *words, file], capture_output=True, text=True, check=True)
    assert "helper_one in section .text" in done.stdout
    assert "0xffffffff81000000" in done.stdout
