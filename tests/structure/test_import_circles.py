# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""No module imports itself by a detour: not at the top, not inside a function, not for its types alone."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

PACKAGES = ["ihsm_device", "ihsm_abi", "ihsm", "ihsm_kmod"]
CIRCLES = {
    "at the top": ("import circle.b", "import circle.a"),
    "inside a function": ("import circle.b", "def late():\n    import circle.a"),
    "for types alone": (
        "import circle.b",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from circle.a import A",
    ),
}


def circle_of(package: str) -> list[str] | None:
    """Modules of the package that import each other, the first again at the end; None without a circle."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=False, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return error.args[1]
    return None


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_no_import_circle(package: str) -> None:
    assert circle_of(package) is None


@pytest.fixture
def importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "circle"
    folder.mkdir()
    (folder / "__init__.py").touch()
    return folder


@pytest.mark.parametrize("kind", CIRCLES)
def test_a_circle_is_found(importable: Path, kind: str) -> None:
    for name, text in zip("ab", CIRCLES[kind], strict=True):
        (importable / f"{name}.py").write_text(text)
    found = circle_of("circle")
    assert found is not None
    assert set(found) == {"circle.a", "circle.b"}
