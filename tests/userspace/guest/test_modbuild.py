# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Building a module's source."""

from __future__ import annotations

from pathlib import Path

import pytest

from ihsm.guest.errors import GuestError, ModuleBuildError
from ihsm.guest.kernel import find_kernel
from ihsm.guest.modbuild import build_modules
from support.guests import MODULES


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
