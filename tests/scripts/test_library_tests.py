# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""`scripts/test-libraries`: every library is tried and described, helpers are short, versions get into the page."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from library_tests.__main__ import main
from library_tests.environment import REQUIREMENTS, library_names
from library_tests.table import PAGE, canonical, recorded, with_versions

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests/libraries"
ADAPTERS = sorted(path for path in (ROOT / "userspace/ihsm/adapters").glob("*.py") if path.stem != "__init__")
NAMES = library_names(REQUIREMENTS.read_text())
MOST_LINES = 25


def test_names_are_read_without_comments() -> None:
    assert library_names("# all\none\n\ntwo  # the second\n") == ["one", "two"]


def test_no_version_is_pinned() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in NAMES)


def test_every_library_has_a_row_and_every_row_is_of_one() -> None:
    assert recorded(PAGE.read_text()).keys() == set(NAMES)


def test_every_library_is_tried() -> None:
    refused = (TESTS / "test_refused.py").read_text()
    for name in NAMES:
        module = {"pyopenssl": "OpenSSL", "sigstore": "sigstore"}.get(name)
        if module is None:
            assert (TESTS / f"test_{name.replace('-', '_')}.py").is_file()
        else:
            assert f"from {module}" in refused


@pytest.mark.parametrize("path", ADAPTERS, ids=lambda path: path.stem)
def test_helpers_are_short_and_have_an_example(path: Path) -> None:
    module = ast.parse(path.read_text())
    for node in ast.walk(module):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            assert ast.get_docstring(node) or node.name == "_get_private_key", node
            node.body = node.body[ast.get_docstring(node) is not None :]
    code = [
        line for line in ast.unparse(module).splitlines() if line.strip() and not line.startswith(("from", "import"))
    ]
    assert len(code) <= MOST_LINES
    assert f"from ihsm.adapters.{path.stem} import" in PAGE.read_text()
    assert "run_example(" in (TESTS / f"test_{path.stem}.py").read_text()


def test_the_default_run_leaves_them_out(pytestconfig: pytest.Config) -> None:
    assert "tests/libraries" in pytestconfig.getini("norecursedirs")


def test_versions_are_written_into_their_rows_alone() -> None:
    page = "| Library | Version | x |\n|---|---|---|\n| One.Two | 1.0 | 2.0 |\n| three's part | 3 | y |\n"
    assert recorded(page) == {"one-two": "1.0", "three": "3"}
    changed = with_versions(page, {"one_two": "1.1"})
    assert changed == page.replace("| 1.0 |", "| 1.1 |")
    assert with_versions(changed, recorded(page)) == page


def test_a_version_without_a_row_is_an_error() -> None:
    with pytest.raises(ValueError, match="no row for four"):
        with_versions("| three | 3 |\n", {"four": "4"})


def test_names_are_compared_as_the_index_does() -> None:
    assert canonical("Py_Jose.x--y") == "py-jose-x-y"


def test_versions_are_recorded_after_a_run_of_all_tests_only(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--record", "-k", "paramiko"])
    assert "--record is for a run of all tests" in capsys.readouterr().err
