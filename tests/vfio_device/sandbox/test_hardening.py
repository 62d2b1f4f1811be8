# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""How the native modules were built: what makes a fault in C harder to use."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("readelf") is None, reason="no binutils")
MODULES = ("ihsm_device._native", "ihsm._native")


def module_file(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def shown(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@pytest.fixture(params=MODULES)
def module(request: pytest.FixtureRequest) -> str:
    return str(module_file(request.param))


def test_relocations_are_read_only_and_no_stack_is_code(module: str) -> None:
    assert "NOW" in shown("readelf", "--dynamic", module)
    headers = shown("readelf", "--segments", "--wide", module).splitlines()
    assert any("GNU_RELRO" in line for line in headers)
    (stack,) = (line for line in headers if "GNU_STACK" in line)
    assert "RWE" not in stack


def test_stacks_have_canaries_and_copies_are_checked() -> None:
    """The user's module has neither arrays on its stack nor copies whose size the compiler knows."""
    symbols = shown("readelf", "--dyn-syms", "--wide", str(module_file(MODULES[0])))
    if "__asan" in symbols or "__tsan" in symbols:
        pytest.skip("a sanitizer has checks of its own")
    assert "__stack_chk_fail" in symbols
    assert "__memcpy_chk" in symbols


def test_indirect_jumps_go_to_marked_places(module: str) -> None:
    code = shown("objdump", "--disassemble", "--section=.text", module)
    assert code.count("endbr64") > 10
