# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""A module's logger is `_log` and has the module's name, so that `logging` finds it by the package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = ("abi", "kmod_sim", "userspace", "vfio_device")
FILES: Final = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]


def loggers(source: str) -> Iterator[str]:
    """What gives a logger a name, wherever it stands in a module, as `ast` writes it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            calls = (call for call in ast.walk(node.value) if isinstance(call, ast.Call))
            if any(ast.unparse(call.func).endswith("getLogger") for call in calls):
                yield ast.unparse(node)


def test_loggers_have_one_name() -> None:
    found = {str(path.relative_to(ROOT)): list(loggers(path.read_text())) for path in FILES}
    named = {path: texts for path, texts in found.items() if texts}
    assert named
    assert {path: texts for path, texts in named.items() if texts != ["_log = logging.getLogger(__name__)"]} == {}


@pytest.mark.parametrize(
    "written",
    [
        "_LOG: Final = logging.getLogger(__name__)",
        "log = getLogger('ihsm')",
        "class Named:\n    _log = logging.getLogger(__name__)",
        "def named():\n    log = logging.getLogger('a').getChild('b')",
        "if (log := logging.getLogger(__name__)):\n    pass",
    ],
)
def test_every_way_to_name_one_is_seen(written: str) -> None:
    assert len(list(loggers(written))) == 1
