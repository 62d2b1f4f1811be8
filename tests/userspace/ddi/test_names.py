# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The package's names: loaded when used, and the same for type checkers as at run time."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ihsm.ddi

STUB = Path(ihsm.ddi.__file__).with_suffix(".pyi")


def test_type_checkers_see_the_names_of_run_time() -> None:
    body = ast.parse(STUB.read_text()).body
    seen = {alias.name: part.module for part in body if isinstance(part, ast.ImportFrom) for alias in part.names}
    assert seen == {name: f"ihsm.ddi.{home}" for name, home in ihsm.ddi._HOMES.items()}
    exported = next(part.value for part in body if isinstance(part, ast.Assign))
    assert sorted(ast.literal_eval(exported)) == ihsm.ddi.__all__


@pytest.mark.parametrize("name", ihsm.ddi.__all__)
def test_a_name_is_that_of_its_module(name: str) -> None:
    module = import_module(f"ihsm.ddi.{ihsm.ddi._HOMES[name]}")
    found = getattr(ihsm.ddi, name)
    assert found is getattr(module, name)
    assert found.__module__ == module.__name__


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match=r"module 'ihsm\.ddi' has no attribute 'Tunnel'"):
        _ = ihsm.ddi.Tunnel


def test_commands_load_no_large_libraries_that_they_do_not_use() -> None:
    commands = "from ihsm.cli import info, init, selftest, status, verify_report"
    program = f"{commands}; import sys; print(*{{'cwt', 'cbor2', 'cryptography'}} & set(sys.modules))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == []
