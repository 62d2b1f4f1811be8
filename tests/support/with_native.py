# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Run a script or a module with another build of the native modules: with_native.py SO (SCRIPT | -m MODULE) ...

SO is the device's; the client's lies beside it. Only this process sees them, not its children.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


class NativeFinder(importlib.abc.MetaPathFinder):
    """Finds ihsm_device._native at a path of one's own, and ihsm._native beside it."""

    def __init__(self, path: str) -> None:
        device = Path(path)
        self._paths = {
            "ihsm_device._native": str(device),
            "ihsm._native": str(device.with_name(f"_user{device.name}")),
        }

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The modules themselves; everything else is left to the others."""
        place = self._paths.get(fullname)
        return None if place is None else importlib.util.spec_from_file_location(fullname, place)


def main(arguments: list[str]) -> None:
    """Run what the command line says."""
    module, *rest = arguments
    sys.meta_path.insert(0, NativeFinder(module))
    if rest[0] == "-m":
        sys.argv = rest[1:]
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = rest
        runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
