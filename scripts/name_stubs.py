# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""The `__init__.pyi` of packages whose names are loaded when used, from the table that these load by (`_HOMES`)."""

import subprocess
import sys
from importlib import import_module
from importlib.util import resolve_name
from pathlib import Path
from typing import Final

from written_pages import write

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = ("abi", "vfio_device", "userspace", "kmod_sim")
MARK: Final = "loader(__name__, _HOMES)"
"""What such a package has in its `__init__.py`."""
HEAD: Final = """\
# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
# Written by scripts/name-stubs: what type checkers see of `{}`, whose names are loaded when used.
"""


def main() -> int:
    """Write the stubs, or with `--check` only tell which would change; 1 if there are such."""
    wanted = dict(stub(name) for name in packages())
    return write(wanted, None, ROOT, source="tables of names", script="scripts/name-stubs")


def packages() -> list[str]:
    """Names of all such packages."""
    return sorted(
        ".".join(file.parent.relative_to(ROOT / source).parts)
        for source in SOURCES
        for file in (ROOT / source).rglob("__init__.py")
        if MARK in file.read_text()
    )


def stub(name: str) -> tuple[Path, str]:
    """Path and text of a package's stub."""
    package = import_module(name)
    assert package.__file__
    path = Path(package.__file__).with_suffix(".pyi")
    lines = [HEAD.format(name)]
    lines += [f"from {resolve_name(f'.{home}', name)} import {each}" for each, home in package._HOMES.items()]
    lines += ["__all__ = [", *(f"    {each!r}," for each in package.__all__), "]", ""]
    return path, _formatted(path, "\n".join(lines))


def _formatted(path: Path, text: str) -> str:
    """As the other files: imports of a module together, and all sorted."""
    for command in (("check", "--quiet", "--select=I,RUF022", "--fix-only"), ("format", "--quiet")):
        ruff = [Path(sys.executable).with_name("ruff"), *command, f"--stdin-filename={path}", "-"]
        text = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


if __name__ == "__main__":
    sys.exit(main())
