# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Building a module's source."""

from __future__ import annotations

from pathlib import Path

import pytest

from ihsm.guest.errors import GuestError, ModuleBuildError
from ihsm.guest.initramfs import GuestModule
from ihsm.guest.kernel import find_kernel
from ihsm.guest.kernel_log import Complaint, Frame, Kind
from ihsm.guest.modbuild import build_modules
from ihsm.guest.symbols import ModuleSymbols, SourceLines
from support.guests import MODULES, broken_driver


def test_a_source_that_does_not_compile_is_shown_with_its_own_path(tmp_path: Path) -> None:
    source = tmp_path / "broken"
    source.mkdir()
    (source / "Kbuild").write_text("obj-m := broken.o\n")
    (source / "broken.c").write_text("#include <linux/module.h>\nint broken(void) { return missing; }\n")
    with pytest.raises(ModuleBuildError) as caught:
        build_modules(source, find_kernel(), tmp_path / "work")
    assert any(f"{source}/broken.c:2" in line and "missing" in line for line in caught.value.lines)
    assert sorted(path.name for path in source.iterdir()) == ["Kbuild", "broken.c"]


def test_a_folder_that_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="no Kbuild or Makefile"):
        build_modules(tmp_path, find_kernel(), tmp_path / "work")


def test_a_makefile_that_builds_nothing(tmp_path: Path) -> None:
    source = tmp_path / "empty"
    source.mkdir()
    (source / "Makefile").write_text("")
    with pytest.raises(ModuleBuildError):
        build_modules(source, find_kernel(), tmp_path / "work")


def test_the_source_is_left_alone(tmp_path: Path) -> None:
    before = sorted(path.name for path in (MODULES / "probe").iterdir())
    (module,) = build_modules(MODULES / "probe", find_kernel(), tmp_path)
    assert module.name == "probe.ko"
    assert sorted(path.name for path in (MODULES / "probe").iterdir()) == before


def test_places_in_a_module_have_lines_of_the_source_it_was_built_from(tmp_path: Path) -> None:
    source = broken_driver("atomic", tmp_path)
    (file,) = build_modules(source, find_kernel(), tmp_path / "work")
    lines = (source / "bench_atomic.c").read_text().splitlines()
    called = next(number for number, text in enumerate(lines, 1) if "wait_event_timeout" in text)
    begun = next(number for number, text in enumerate(lines, 1) if text.endswith("sleep_locked(struct bench *bench) {"))
    ended = next(number for number, text in enumerate(lines, 1) if number > called and text == "}")
    symbols = ModuleSymbols(file)
    functions = {name: size for name, size in symbols.functions() if name.startswith("sleep_locked")}
    ((name, size),) = functions.items()
    places = [symbols.line(Frame(name, offset, size, "bench_atomic", True)) for offset in range(1, size)]
    assert set(places) <= {f"{source}/bench_atomic.c:{number}" for number in range(begun, ended + 1)}
    assert f"{source}/bench_atomic.c:{called}" in places
    assert symbols.line(Frame("nothing_of_it", 1, 2, "bench_atomic", True)) is None
    complaint = Complaint(Kind.BUG, "", frames=(Frame("schedule", 1, 2, None, True), Frame(name, 9, 0, "m", True)))
    module = GuestModule("m.ko", b"", tested=True, file=file)
    assert str(SourceLines([module]).place(complaint)).endswith(", in sleep_locked")
    assert SourceLines([]).place(complaint) is None
