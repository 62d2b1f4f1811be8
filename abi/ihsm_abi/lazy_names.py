# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Names of a package that are loaded when they are used, so that a program waits only for what it does use.

Type checkers read the same from the package's `__init__.pyi`, which `scripts/name-stubs` writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def loader(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package (PEP 562).

    Args:
        package: its name.
        homes: name -> module that has it, relative to the package: `a` is below it, `.a` beside it.
    """

    def load(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        found = getattr(import_module(f".{homes[name]}", package), name)
        # From now on it is there as if it had been imported at the beginning.
        setattr(sys.modules[package], name, found)
        return found

    return load
