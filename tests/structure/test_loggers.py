# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A module's logger is `_log` and has the module's name, so that `logging` finds it by the package."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("abi", "kmod_sim", "userspace", "vfio_device")
FILES: Final = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def loggers(path: Path) -> list[str]:
    """Assignments of `logging.getLogger(...)` at the top of a module, as written."""
    body = ast.parse(path.read_text()).body
    written = [ast.unparse(node) for node in body if isinstance(node, ast.Assign)]
    return [text for text in written if "getLogger(" in text]


def test_loggers_have_one_name() -> None:
    found = {str(path.relative_to(ROOT)): loggers(path) for path in FILES}
    named = {path: texts for path, texts in found.items() if texts}
    assert named
    assert {path: texts for path, texts in named.items() if texts != ["_log = logging.getLogger(__name__)"]} == {}
