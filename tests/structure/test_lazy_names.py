# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Packages whose names are loaded when used: type checkers see the same names as programs do."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.util import resolve_name

import pytest

from name_stubs import packages, stub

PACKAGES = packages()


def test_there_are_such_packages() -> None:
    assert {"ihsm.api", "ihsm.bus", "ihsm.ddi", "ihsm.driver", "ihsm_abi.ddi"} <= set(PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
def test_type_checkers_see_the_names_of_run_time(name: str) -> None:
    path, text = stub(name)
    assert path.read_text() == text, "run scripts/name-stubs"
    body = ast.parse(text).body
    seen = {alias.name: part.module for part in body if isinstance(part, ast.ImportFrom) for alias in part.names}
    assert seen == {each: resolve_name(f".{home}", name) for each, home in import_module(name)._HOMES.items()}
    exported = next(part.value for part in body if isinstance(part, ast.Assign))
    assert sorted(ast.literal_eval(exported)) == sorted(seen) == sorted(import_module(name).__all__)


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_is_that_of_its_module(name: str) -> None:
    package = import_module(name)
    for each, home in package._HOMES.items():
        assert getattr(package, each) is getattr(import_module(f".{home}", name), each)
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'Tunnel'"):
        _ = package.Tunnel


@pytest.mark.parametrize("name", PACKAGES)
def test_the_package_itself_loads_nothing_below_it(name: str) -> None:
    program = f"import sys, {name}; print(*(each for each in sys.modules if each.startswith({name + '.'!r})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
